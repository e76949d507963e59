//! MOV to and from debug registers (SDM volume 2; volume 3, 18.2).

pub const CASES: &str = "
p32 | 0f 23 f8 | eax=d000 | dr7=400
p32 | 0f 23 f8 | eax=300 | dr7=700
p32 | 0f 23 f0 | eax=ffffffff | dr6=ffffefff
p32 | 0f 23 f0 | eax=1000 | dr6=ffff0ff0
p32 | 0f 21 f8 | dr7=700 | eax=700
# DR4 and DR5 are DR6 and DR7 without CR4.DE.
p32 | 0f 23 e0 | eax=1 | dr6=ffff0ff1
p32 | 0f 23 e8 | eax=300 | dr7=700
p32 | 0f 21 e8 | | eax=400
p32 | 0f 21 e0 | cr4=8 | #ud
p32 | 0f 23 e8 | cr4=8 | #ud
p32.3 | 0f 21 c0 | | #gp(0)
p32.1 | 0f 23 c0 | | #gp(0)
v86 | 0f 21 c0 | | #gp(0)
l64 | 0f 21 f0 | rax=ffffffffffffffff | rax=ffff0ff0
l64 | 0f 23 f0 | rax=100000000 | #gp(0)
l64 | 0f 23 f8 | rax=8000000000000400 | #gp(0)
l64 | 44 0f 23 c0 | | #ud
l64 | 44 0f 21 c0 | | #ud
";
