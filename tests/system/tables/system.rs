//! LGDT, LIDT, SGDT, SIDT, LLDT, LTR, SLDT, STR, SWAPGS, HLT, INVLPG, WBINVD, INVD (SDM volume 2).

pub const CASES: &str = "
p32 | 0f 01 15 00 90 00 00 | w[data]=123 d[data+2]=89abcdef | gdtr.limit=123 gdtr.base=89abcdef
p32 | 66 0f 01 15 00 90 00 00 | w[data]=123 d[data+2]=89abcdef | gdtr.limit=123 gdtr.base=abcdef
p32 | 0f 01 1d 00 90 00 00 | w[data]=123 d[data+2]=89abcdef | idtr.limit=123 idtr.base=89abcdef
p32 | 66 0f 01 1d 00 90 00 00 | w[data]=123 d[data+2]=89abcdef | idtr.limit=123 idtr.base=abcdef
real | 0f 01 16 00 90 | w[data]=123 d[data+2]=89abcdef | gdtr.limit=123 gdtr.base=abcdef
real | 66 0f 01 1e 00 90 | w[data]=123 d[data+2]=89abcdef | idtr.limit=123 idtr.base=89abcdef
l64 | 0f 01 14 25 00 90 00 00 | w[data]=123 q[data+2]=ffff800000001000 | gdtr.limit=123 gdtr.base=ffff800000001000
l64 | 0f 01 1c 25 00 90 00 00 | w[data]=123 q[data+2]=8000000000001000 | #gp(0)
l64 | 0f 01 14 25 00 90 00 00 | w[data]=123 q[data+2]=0000800000001000 | #gp(0)
p32.3 | 0f 01 15 00 90 00 00 | | #gp(0)
p32.1 | 0f 01 1d 00 90 00 00 | | #gp(0)
l64.3 | 0f 01 14 25 00 90 00 00 | | #gp(0)
p32 | 0f 01 d8 | | #ud
p32 | 0f 01 05 00 90 00 00 | | w[data]=7ff d[data+2]=1000
p32.3 | 0f 01 05 00 90 00 00 | | w[data]=7ff d[data+2]=1000
p32.3 | 0f 01 05 00 90 00 00 | cr4=800 | #gp(0)
p32 | 0f 01 05 00 90 00 00 | cr4=800 | w[data]=7ff d[data+2]=1000
p32 | 0f 01 0d 00 90 00 00 | | w[data]=7ff d[data+2]=2000
l64 | 0f 01 04 25 00 90 00 00 | gdtr.base=ffff800000001000 | w[data]=7ff q[data+2]=ffff800000001000
# LLDT
p32 | 0f 00 d0 | eax=38 | ldtr=38
p32 | 0f 00 d0 | eax=0 | ldtr=0
p32 | 0f 00 d0 | eax=3 | ldtr=3
p32 | 0f 00 d0 | eax=3b ldtr=0 | ldtr=3b
p32 | 0f 00 d0 | eax=8 | #gp(8)
p32 | 0f 00 d0 | eax=28 | #gp(28)
p32 | 0f 00 d0 | eax=3c | #gp(3c)
p32 | 0f 00 d0 | eax=800 | #gp(800)
p32 | 0f 00 d0 | eax=100 q[gdt+100]=00000200180007ff | #np(100)
p32 | 0f 00 15 00 90 00 00 | w[data]=38 ldtr=0 | ldtr=38
p32.3 | 0f 00 d0 | eax=38 | #gp(0)
real | 0f 00 d0 | | #ud
l64 | 0f 00 d0 | eax=38 ldtr=0 | ldtr=38
l64 | 0f 00 d0 | eax=38 ldtr=0 q[gdt+40]=ffff8000 | ldtr=38
l64 | 0f 00 d0 | eax=38 ldtr=0 q[gdt+40]=8000 | #gp(38)
l64 | 0f 00 d0 | eax=7f8 q[gdt+7f8]=00008200180007ff | #gp(7f8)
# LTR
p32 | 0f 00 d8 | eax=110 q[gdt+110]=0000890032000067 | tr=110 q[gdt+110]=00008b0032000067
p32 | 0f 00 d8 | eax=110 q[gdt+110]=000081003200002b | tr=110 q[gdt+110]=000083003200002b
p32 | 0f 00 d8 | eax=28 | #gp(28)
p32 | 0f 00 d8 | eax=0 | #gp(0)
p32 | 0f 00 d8 | eax=3 | #gp(0)
p32 | 0f 00 d8 | eax=10 | #gp(10)
p32 | 0f 00 d8 | eax=2c | #gp(2c)
p32 | 0f 00 d8 | eax=110 q[gdt+110]=0000090032000067 | #np(110)
p32.3 | 0f 00 d8 | eax=110 q[gdt+110]=0000890032000067 | #gp(0)
l64 | 0f 00 d8 | eax=110 q[gdt+110]=0000890032000067 q[gdt+118]=ffff8000 | tr=110 q[gdt+110]=00008b0032000067
l64 | 0f 00 d8 | eax=110 q[gdt+110]=000081003200002b | #gp(110)
l64 | 0f 00 d8 | eax=110 q[gdt+110]=0000890032000067 q[gdt+118]=8000 | #gp(110)
# SLDT, STR
p32 | 0f 00 c0 | eax=ffffffff | eax=38
p32 | 66 0f 00 c0 | eax=ffffffff | eax=ffff0038
p32 | 0f 00 05 00 90 00 00 | d[data]=ffffffff | d[data]=ffff0038
p32 | 0f 00 c8 | eax=ffffffff | eax=28
p32.3 | 0f 00 c8 | | eax=28
p32.3 | 0f 00 c8 | cr4=800 | #gp(0)
p32.3 | 0f 00 c0 | cr4=800 | #gp(0)
l64 | 48 0f 00 c8 | rax=ffffffffffffffff | rax=28
real | 0f 00 c8 | | #ud
# SWAPGS
l64 | 0f 01 f8 | gs.base=1234 kernel_gs=5678 | gs.base=5678 kernel_gs=1234
l64.3 | 0f 01 f8 | | #gp(0)
p32 | 0f 01 f8 | | #ud
c32 | 0f 01 f8 | | #ud
# HLT, caches, INVLPG
p32 | f4 | | halt
l64 | f4 | | halt
real | f4 | | halt
p32.3 | f4 | | #gp(0)
p32.1 | f4 | fl=3002 | #gp(0)
l64.3 | f4 | fl=3002 | #gp(0)
p32 | 0f 09 | |
p32 | 0f 08 | |
p32.3 | 0f 09 | | #gp(0)
l64.3 | 0f 08 | | #gp(0)
l64 | 0f 01 38 | rax=8000000000000000 |
l64 | 0f 01 38 | rax=9000 |
p32 | 0f 01 3d 00 90 00 00 | |
p32.3 | 0f 01 3d 00 90 00 00 | | #gp(0)
p32 | 0f 01 f9 | tsc_aux=77 | eax=0 edx=0 ecx=77
p32.3 | 0f 31 | cr4=4 | #gp(0)
p32 | 0f 31 | cr4=4 eax=5 | eax=0
";
