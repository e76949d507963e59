//! CLI, STI, PUSHF, POPF by CPL and IOPL (SDM volume 2, POPF, table 4-15; CLI, STI).

pub const CASES: &str = "
p32 | fa | fl=202 | fl=2
p32 | fb | | fl=202
p32.3 | fa | fl=202 | #gp(0)
p32.3 | fb | | #gp(0)
p32.3 | fa | fl=2202 | #gp(0)
p32.3 | fa | fl=3202 | fl=3002
p32.3 | fb | fl=3002 | fl=3202
p32.1 | fa | fl=1202 | fl=1002
p32.1 | fa | fl=202 | #gp(0)
l64.3 | fa | fl=202 | #gp(0)
l64.3 | fb | fl=3002 | fl=3202
real | fa | fl=202 | fl=2
real | fb | | fl=202
p32 | 9c | fl=3247ed7 | esp=5bfc d[5bfc]=247ed7
p32 | 66 9c | fl=247ed7 | esp=5bfe w[5bfe]=7ed7
p32.3 | 9c | fl=202 | esp=8bfc d[8bfc]=202
l64 | 9c | fl=202 | rsp=5bf8 q[5bf8]=202
l64 | 66 9c | fl=202 | rsp=5bfe w[5bfe]=202
p32 | 9d | d[sp]=247ed7 | esp=5c04 fl=247ed7
p32 | 9d | d[sp]=fffffeff fl=2 | esp=5c04 fl=247ed7
p32.3 | 9d | d[sp]=3602 | esp=8c04 fl=402
p32.3 | 9d | d[sp]=602 fl=3002 | esp=8c04 fl=3602
p32.1 | 9d | d[sp]=3202 fl=1002 | esp=6c04 fl=1202
p32 | 66 9d | w[sp]=3202 fl=40002 | esp=5c02 fl=43202
real | 9d | w[sp]=7202 | esp=5c02 fl=7202
real | 66 9d | d[sp]=247202 | esp=5c04 fl=247202
l64 | 9d | q[sp]=247202 | rsp=5c08 fl=247202
l64.3 | 9d | q[sp]=3602 | rsp=8c08 fl=402
";
