//! Segments at work: types, limits, expand-down, 16-bit stacks, code limits (SDM volume 3, 5.3 to 5.5).

pub const CASES: &str = "
# MOV AL, [disp32]; MOV [disp32], AL
p32 | a0 00 90 00 00 | b[data]=5a | eax=5a
p32 | a0 00 90 00 00 | ds=0 | #gp(0)
p32 | a2 00 90 00 00 | eax=5a | b[data]=5a
p32 | a2 00 90 00 00 | eax=5a ds=8 | #gp(0)
p32 | a0 00 90 00 00 | ds=8 b[data]=5a | eax=5a
p32 | a0 00 90 00 00 | q[gdt+100]=00cf99000000ffff ds=100 | #gp(0)
p32 | a2 00 90 00 00 | q[gdt+100]=00cf91000000ffff ds=100 | #gp(0)
p32 | a0 00 90 00 00 | q[gdt+100]=00cf91000000ffff ds=100 b[data]=5a | eax=5a
p32 | 2e a2 00 90 00 00 | | #gp(0)
p32 | 36 a0 00 90 00 00 | b[data]=5a | eax=5a
# The last byte counts.
p32 | a1 fc 8f 00 00 | q[gdt+100]=0040930000008fff ds=100 d[8ffc]=1234 | eax=1234
p32 | a1 fd 8f 00 00 | q[gdt+100]=0040930000008fff ds=100 | #gp(0)
p32 | a0 ff 8f 00 00 | q[gdt+100]=0040930000008fff ds=100 b[8fff]=7 | eax=7
p32 | a0 00 90 00 00 | q[gdt+100]=0040930000008fff ds=100 | #gp(0)
p32 | a1 00 90 00 00 | q[gdt+100]=00c0930000000008 ds=100 | #gp(0)
p32 | a1 fc 8f 00 00 | q[gdt+100]=00c0930000000008 ds=100 d[8ffc]=9 | eax=9
# Expand-down: above the limit, up to FFFF or FFFFFFFF by B.
p32 | a0 00 90 00 00 | q[gdt+100]=0000970000000fff ds=100 b[data]=5a | eax=5a
p32 | a0 ff 0f 00 00 | q[gdt+100]=0000970000000fff ds=100 | #gp(0)
p32 | a0 00 10 00 00 | q[gdt+100]=0000970000000fff ds=100 b[gdt]=6 | eax=6
p32 | a0 ff ff 00 00 | q[gdt+100]=0000970000000fff ds=100 | eax=0
p32 | a0 00 00 01 00 | q[gdt+100]=0000970000000fff ds=100 | #gp(0)
p32 | a1 fd ff 00 00 | q[gdt+100]=0000970000000fff ds=100 | #gp(0)
p32 | a0 00 00 01 00 | q[gdt+100]=0040970000000fff ds=100 | eax=a0
p32 | a0 00 10 00 00 | q[gdt+100]=00c0970000000001 ds=100 | #gp(0)
p32 | a0 00 20 00 00 | q[gdt+100]=00c0970000000001 ds=100 | eax=0
# The stack segment raises #SS.
p32.3 | 8b 04 24 | q[gdt+100]=0040f30000008bff ss=103 | #ss(0)
p32.3 | 8b 45 00 | q[gdt+100]=0040f30000008bff ss=103 ebp=9000 | #ss(0)
p32.3 | 3e 8b 45 00 | q[gdt+100]=0040f30000008bff ss=103 ebp=9000 d[data]=5 | eax=5
p32.3 | 8b 04 24 | q[gdt+100]=0040f30000008c03 ss=103 d[sp]=5 | eax=5
p32.3 | 50 | q[gdt+100]=0040f70000008c03 ss=103 | #ss(0)
p32.3 | 50 | q[gdt+100]=0040f70000008bfb ss=103 eax=7 | esp=8bfc d[8bfc]=7
# A 16-bit stack wraps, and leaves the upper half of ESP alone.
p16 | 50 | eax=1234 esp=0 | esp=fffe w[fffe]=1234
p16 | 50 | eax=1234 esp=70000 | esp=7fffe w[fffe]=1234
p16 | 58 | esp=7fffe w[fffe]=1234 | eax=1234 esp=70000
p16 | 66 50 | eax=12345678 esp=2 | shutdown
p32 | 50 | eax=12345678 ss=20 esp=30000 | esp=3fffc d[fffc]=12345678
p32 | c8 10 00 00 | ss=20 esp=35c00 ebp=77 | esp=35bec ebp=35bfc d[5bfc]=77
p32 | c9 | ss=20 esp=31111 ebp=5b00 d[5b00]=99 | esp=35b04 ebp=99
# Instructions and branches beyond the end of the code segment.
p32 | eb 7e | q[gdt+100]=00419b000000007f cs=100 | #gp(0)
p32 | eb 7d | q[gdt+100]=00419b000000007f cs=100 | rip=1007f
p32 | b8 01 00 00 00 | q[gdt+100]=00419b0000000004 cs=100 | eax=1
p32 | b8 01 00 00 00 | q[gdt+100]=00419b0000000003 cs=100 | #gp(0)
p32 | ff e0 | eax=10080 q[gdt+100]=00419b000000007f cs=100 | #gp(0)
real | eb fe | | rip=0
real | b8 01 00 | cs=0 rip=fffe w[fffe]=01b8 b[10000]=0 | #gp
real | 90 b8 01 00 | cs=0 rip=fffd b[fffd]=90 w[fffe]=01b8 b[10000]=0 | rip=fffe
real | 90 90 | cs=0 rip=ffff b[ffff]=90 b[10000]=90 | rip=10000
# Linear addresses wrap at 4 GiB.
p32 | a0 00 a0 00 00 | ds.base=fffff000 b[data]=5a | eax=5a
# Long mode: no limits, but addresses are canonical.
l64 | 8a 00 | rax=8000000000000000 | #gp(0)
l64 | 8a 04 24 | rsp=8000000000000000 | shutdown
l64.3 | 8a 04 24 | rsp=8000000000000000 | #ss(0)
l64.3 | 50 | rsp=8000000000000000 | #ss(0)
l64.3 | 8b 45 00 | rbp=0000800000000000 | #ss(0)
l64 | 8a 00 | ds=0 rax=9000 b[data]=5a | rax=905a
l64 | ff e0 | rax=0000800000000000 | #gp(0)
";
