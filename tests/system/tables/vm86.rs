//! Virtual-8086 mode: what is sensitive to IOPL, what does not exist there (SDM volume 3, chapter 20).

pub const CASES: &str = "
v86 | fa | | #gp(0)
v86 | fb | | #gp(0)
v86 | 9c | | #gp(0)
v86 | 9d | | #gp(0)
v86 | cd 21 | | #gp(0)
v86 | cf | | #gp(0)
v86 | fa | fl=23202 | fl=23002
v86 | fb | fl=23002 | fl=23202
v86 | 9c | fl=23202 | esp=8bfe w[8bfe]=3202
v86 | 66 9c | fl=24202 | #gp(0)
v86 | 66 9c | fl=22202 | #gp(0)
v86 | 66 9c | fl=263202 | esp=8bfc d[8bfc]=243202
v86 | 9d | w[sp]=202 fl=23002 | esp=8c02 fl=23202
v86 | 9d | w[sp]=4cd7 fl=23202 | esp=8c02 fl=27cd7
v86 | 66 9d | d[sp]=240202 fl=23002 | esp=8c04 fl=263202
v86 | f4 | | #gp(0)
v86 | f4 | fl=23002 | #gp(0)
v86 | e4 60 | | #gp(0)
v86 | e4 60 | fl=23002 | #gp(0)
v86 | e4 60 | b[tss+74]=fe | eax=60
v86 | 0f 00 c0 | | #ud
v86 | 0f 00 c8 | | #ud
v86 | 0f 00 d0 | | #ud
v86 | 0f 00 d8 | | #ud
v86 | 0f 00 e0 | | #ud
v86 | 0f 00 e8 | | #ud
v86 | 0f 02 c0 | | #ud
v86 | 0f 03 c0 | | #ud
v86 | 63 c0 | | #ud
v86 | 0f 01 e0 | eax=0 | eax=31
v86 | 0f 20 c0 | | #gp(0)
v86 | 0f 22 c0 | | #gp(0)
v86 | 0f 06 | | #gp(0)
v86 | 0f 01 16 00 90 | | #gp(0)
v86 | 0f 32 | | #gp(0)
v86 | 0f 30 | | #gp(0)
v86 | 0f 09 | | #gp(0)
v86 | 0f 35 | sysenter_cs=8 | #gp(0)
v86 | a1 ff ff | | #gp(0)
v86 | a0 ff ff | | eax=0
v86 | 8c c8 | | eax=1000
v86 | 26 8a 07 | es=900 ebx=0 b[data]=7e | eax=7e
v86 | 36 a1 ff ff | | #ss(0)
";
