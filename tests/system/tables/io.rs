//! IN, OUT, INS, OUTS by CPL, IOPL and I/O permission map (SDM volume 1, 19.5). Port 60 has its bit at TSS+74, bit 0.

pub const CASES: &str = "
p32 | e4 60 | | eax=60
p32 | e5 60 | | eax=a5c30060
p32 | 66 ed | edx=1234 eax=ffffffff | eax=ffff1234
p32 | e6 60 | |
real | ec | edx=77 | eax=77
p32.3 | e4 60 | | #gp(0)
p32.3 | e6 60 | | #gp(0)
p32.3 | e4 60 | fl=3002 | eax=60 fl=3002
p32.3 | e4 60 | fl=2002 | #gp(0)
p32.1 | e4 60 | fl=1002 | eax=60
p32.3 | e4 60 | b[tss+74]=fe | eax=60
p32.3 | e4 61 | b[tss+74]=fe | #gp(0)
p32.3 | 66 e5 60 | b[tss+74]=fc | eax=60
p32.3 | 66 e5 60 | b[tss+74]=fe | #gp(0)
p32.3 | e5 60 | b[tss+74]=f0 | eax=a5c30060
p32.3 | e5 60 | b[tss+74]=f8 | #gp(0)
p32.3 | e5 66 | b[tss+74]=3f b[tss+75]=fc | eax=a5c30066
p32.3 | e5 66 | b[tss+74]=3f b[tss+75]=fe | #gp(0)
p32.3 | ec | edx=60 b[tss+74]=fe | eax=60
# The second byte of the map is read, too: it must lie within the limit.
p32.3 | e4 60 | b[tss+74]=fe tr.limit=74 | #gp(0)
p32.3 | e4 60 | b[tss+74]=fe tr.limit=75 | eax=60
p32.3 | e4 60 | b[tss+74]=fe w[tss+66]=200 | #gp(0)
p32.3 | e4 60 | b[tss+74]=fe tr.rights=83 w[tss+2]=6000 w[tss+4]=10 | #gp(0)
p32.3 | e4 60 | b[tss+74]=fe tr.limit=66 | #gp(0)
l64.3 | e4 60 | b[tss+74]=fe | eax=60
l64.3 | e4 60 | | #gp(0)
l64.3 | e4 60 | fl=3002 | eax=60
# INS, OUTS
p32 | 6c | edx=60 edi=9000 | edi=9001 b[data]=60
p32 | 6d | edx=60 edi=9000 | edi=9004 d[data]=a5c30060
p32 | f3 6c | edx=60 edi=9000 ecx=1 | edi=9001 ecx=0 b[data]=60
p32 | f3 6c | edx=60 edi=9000 ecx=0 |
p32.3 | 6c | edx=60 edi=9000 | #gp(0)
p32.3 | f3 6c | edx=60 edi=9000 ecx=0 | #gp(0)
p32.3 | 6e | edx=60 esi=9000 | #gp(0)
p32 | 6e | edx=60 esi=9000 b[data]=5 | esi=9001
p32 | 6c | edx=60 edi=9000 es=8 | #gp(0)
";
