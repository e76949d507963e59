//! MOV, POP, LDS and their kin to segment registers (SDM volume 2, MOV; volume 3, 5.6 and 5.7).

pub const CASES: &str = "
# MOV DS, EAX
p32 | 8e d8 | eax=10 | ds=10
p32 | 8e d8 | eax=0 | ds=0
p32 | 8e d8 | eax=3 | ds=3
p32 | 8e d8 | eax=53 | ds=53
p32 | 8e d8 | eax=8 | ds=8
p32 | 8e d8 | eax=98 | ds=98
p32 | 8e d8 | eax=9b | ds=9b
p32 | 8e d8 | eax=c | ds=c
p32 | 8e d8 | eax=13 | #gp(10)
p32 | 8e d8 | eax=800 | #gp(800)
p32 | 8e d8 | eax=7f8 | #gp(7f8)
p32 | 8e d8 | eax=28 | #gp(28)
p32 | 8e d8 | eax=10 gdtr.limit=16 | #gp(10)
p32 | 8e d8 | eax=10 gdtr.limit=17 | ds=10
p32 | 8e d8 | eax=c ldtr=0 | #gp(c)
p32 | 8e d8 | eax=c ldtr.limit=e | #gp(c)
p32 | 8e d8 | eax=c ldtr.limit=f | ds=c
p32 | 8e d8 | eax=100 q[gdt+100]=00cf99000000ffff | #gp(100)
p32 | 8e d8 | eax=100 q[gdt+100]=00cf13000000ffff | #np(100)
p32 | 8e d8 | eax=100 q[gdt+100]=00cf92000000ffff | ds=100 q[gdt+100]=00cf93000000ffff
p32 | 8e d8 | eax=100 q[gdt+100]=00cf90000000ffff | ds=100 q[gdt+100]=00cf91000000ffff
p32 | 8e d8 | eax=100 q[gdt+100]=00cf1e000000ffff | #np(100)
p32 | 8e d8 | eax=100 q[gdt+100]=00cf1d000000ffff | #gp(100)
p32 | 8e d8 | eax=100 q[gdt+100]=ff5f97abcdef1234 | ds=100
p32.1 | 8e d8 | eax=80 | ds=80
p32.1 | 8e d8 | eax=81 | ds=81
p32.1 | 8e d8 | eax=82 | #gp(80)
p32.1 | 8e d8 | eax=10 | #gp(10)
p32.1 | 8e d8 | eax=92 | ds=92
p32.3 | 8e d8 | eax=98 | ds=98
p32.3 | 8e d8 | eax=10 | #gp(10)
p32.3 | 8e d8 | eax=50 | ds=50
p32.3 | 8e d8 | eax=48 | ds=48
p32.3 | 8e d8 | eax=0 | ds=0
p16 | 8e d8 | eax=10 | ds=10
c32 | 8e d8 | eax=10 | ds=10
c32.3 | 8e d8 | eax=10 | #gp(10)
l64 | 8e d8 | eax=53 | ds=53
l64 | 8e d8 | eax=3 | ds=3
l64.3 | 8e d8 | eax=10 | #gp(10)
real | 8e d8 | eax=1234 | ds=1234
v86 | 8e d8 | eax=1234 | ds=1234

# MOV SS
p32 | 8e d0 | eax=10 | ss=10
p32 | 8e d0 | eax=0 | #gp(0)
p32 | 8e d0 | eax=13 | #gp(10)
p32 | 8e d0 | eax=53 | #gp(50)
p32 | 8e d0 | eax=50 | #gp(50)
p32 | 8e d0 | eax=8 | #gp(8)
p32 | 8e d0 | eax=c | ss=c
p32 | 8e d0 | eax=800 | #gp(800)
p32 | 8e d0 | eax=100 q[gdt+100]=00cf91000000ffff | #gp(100)
p32 | 8e d0 | eax=100 q[gdt+100]=00cf13000000ffff | #ss(100)
p32 | 8e d0 | eax=100 q[gdt+100]=00cf11000000ffff | #gp(100)
p32 | 8e d0 | eax=100 q[gdt+100]=00cf92000000ffff | ss=100 q[gdt+100]=00cf93000000ffff
p32.3 | 8e d0 | eax=53 | ss=53
p32.3 | 8e d0 | eax=50 | #gp(50)
p32.3 | 8e d0 | eax=3 | #gp(0)
c32 | 8e d0 | eax=0 | #gp(0)
l64 | 8e d0 | eax=0 | ss=0
l64 | 8e d0 | eax=3 | #gp(0)
l64.3 | 8e d0 | eax=3 | #gp(0)
l64.3 | 8e d0 | eax=53 | ss=53
real | 8e d0 | eax=1234 | ss=1234

# MOV CS does not exist.
p32 | 8e c8 | eax=8 | #ud
l64 | 8e c8 | eax=58 | #ud
real | 8e c8 | eax=8 | #ud

# POP
p32 | 1f | d[sp]=53 | ds=53 esp=5c04
p32 | 66 1f | w[sp]=53 | ds=53 esp=5c02
p32 | 07 | d[sp]=ffff0053 | es=53 esp=5c04
p32 | 0f a1 | d[sp]=53 | fs=53 esp=5c04
p32 | 0f a9 | d[sp]=0 | gs=0 esp=5c04
p32 | 17 | d[sp]=10 | ss=10 esp=5c04
p32 | 17 | d[sp]=53 | #gp(50)
p32 | 1f | d[sp]=13 | #gp(10)
l64 | 0f a1 | q[sp]=53 | fs=53 rsp=5c08
l64 | 0f a9 | q[sp]=13 | #gp(10)
l64 | 1f | q[sp]=53 | #ud
p16 | 1f | w[sp]=10 | ds=10 esp=5c02
v86 | 1f | w[sp]=1234 | ds=1234 esp=8c02

# LDS, LES, LSS, LFS, LGS
p32 | c5 05 00 90 00 00 | d[data]=12345678 w[data+4]=53 | ds=53 eax=12345678
p32 | c4 1d 00 90 00 00 | d[data]=12345678 w[data+4]=0 | es=0 ebx=12345678
p32 | c5 05 00 90 00 00 | d[data]=12345678 w[data+4]=13 | #gp(10)
p32 | 66 c5 05 00 90 00 00 | eax=aaaa0000 w[data]=5678 w[data+2]=53 | ds=53 eax=aaaa5678
p32 | 0f b2 25 00 90 00 00 | d[data]=5800 w[data+4]=10 | ss=10 esp=5800
p32 | 0f b2 25 00 90 00 00 | d[data]=5800 w[data+4]=0 | #gp(0)
p32 | 0f b4 05 00 90 00 00 | d[data]=1 w[data+4]=53 | fs=53 eax=1
p32 | 0f b5 05 00 90 00 00 | d[data]=1 w[data+4]=53 | gs=53 eax=1
l64 | 48 0f b4 04 25 00 90 00 00 | q[data]=123456789a w[data+8]=53 | fs=53 rax=123456789a
p32 | c5 c0 | | #ud
";
