//! INT n, INT3, INTO, INT1 and exceptions through gates of each kind (SDM volume 3, 6.10 to 6.15).

pub const CASES: &str = "
p32 | cd 80 | | int=80
p32 | cd 80 | fl=40306 | int=80
p32 | cc | | int=3
p32 | ce | fl=802 | int=4
p32 | ce | |
p32 | f1 | | int=1
p32.3 | cd 80 | | int=80
p32.1 | cd 80 | | int=80
p32.3 | cc | | int=3
p16 | cd 80 | | int=80
p16.3 | cd 80 | | int=80
c32 | cd 80 | | int=80
c32.3 | cd 80 | | int=80
l64 | cd 80 | rsp=5c08 | int=80
l64.3 | cd 80 | | int=80
l64 | ce | | #ud
real | cd 80 | fl=302 | int=80
real | cc | | int=3
real | ce | fl=802 | int=4
v86 | cd 80 | fl=23002 | int=80
v86 | cd 80 | fl=22002 | #gp(0)
v86 | cc | fl=20002 | int=3
v86 | ce | fl=20802 | int=4
# Trap gates leave IF alone.
p32 | cd 80 | q[idt+400]=0000ef0000084800 fl=202 | rip=4800 esp=5bf4 d[5bf4]=10002 d[5bf8]=8 d[5bfc]=202
l64 | cd 80 | q[idt+800]=0000ef0000584800 fl=202 | rip=4800 rsp=5bd8 q[5bd8]=10002 q[5be0]=58 q[5be8]=202 \
    q[5bf0]=5c00 q[5bf8]=10
# 16-bit gates push words, and their offset has 16 bits.
p32 | cd 80 | q[idt+400]=ffffe60000184800 fl=202 | cs=18 rip=4800 esp=5bfa w[5bfa]=2 w[5bfc]=8 w[5bfe]=202 fl=2
p32.3 | cd 80 | q[idt+400]=ffffe60000184800 | cs=18 ss=10 rip=4800 esp=5ff6 w[5ff6]=2 w[5ff8]=4b w[5ffa]=2 \
    w[5ffc]=8c00 w[5ffe]=53
p32 | cd 80 | q[idt+400]=ffffe70000184800 fl=202 | cs=18 rip=4800 esp=5bfa w[5bfa]=2 w[5bfc]=8 w[5bfe]=202
v86 | cd 80 | q[idt+400]=ffffe60000184800 fl=23002 | cs=18 ss=10 rip=4800 esp=5fee w[5fee]=2 w[5ff0]=1000 \
    w[5ff2]=3002 w[5ff4]=8c00 w[5ff6]=0 w[5ff8]=0 w[5ffa]=0 w[5ffc]=0 w[5ffe]=0 fl=3002 ds.rights=0 ds.limit=0 \
    es.rights=0 es.limit=0 fs.rights=0 fs.limit=0 gs.rights=0 gs.limit=0
# The gate.
p32 | cd 80 | q[idt+400]=00008e0000084800 | rip=4800 esp=5bf4 d[5bf4]=10002 d[5bf8]=8 d[5bfc]=2
p32.3 | cd 80 | q[idt+400]=00008e0000084800 | #gp(402)
p32.3 | cc | q[idt+18]=00008e0000084800 | #gp(1a)
p32.3 | f1 | q[idt+8]=00008e0000084010 | int=1
p32 | cd 80 | q[idt+400]=00006e0000084800 | #np(402)
p32 | cd 80 | q[idt+400]=0000ec0000084800 | #gp(402)
p32 | cd 80 | idtr.limit=406 | #gp(402)
p32 | cd 80 | idtr.limit=407 | int=80
p32 | f1 | q[idt+8]=0 | #gp(b)
l64 | cd 80 | q[idt+800]=0000e60000584800 | #gp(402)
l64 | cd 80 | q[idt+808]=8000 | #gp(0)
l64 | cd 80 | idtr.limit=80e | #gp(402)
real | cd 80 | idtr.limit=202 | #gp
real | cd 80 | idtr.limit=203 | int=80
# Its code segment.
p32 | cd 80 | q[idt+400]=0000ee0000004800 | #gp(0)
p32 | cd 80 | q[idt+400]=0000ee0000104800 | #gp(10)
p32 | cd 80 | q[idt+400]=0000ee0000484800 | #gp(48)
p32 | cd 80 | q[idt+400]=0000ee0008004800 | #gp(800)
p32 | cd 80 | q[idt+400]=0000ee0001004800 q[gdt+100]=00cf1b000000ffff | #np(100)
p32 | cd 80 | q[idt+400]=0000ee0001004800 q[gdt+100]=00409b00000047ff | #gp(0)
p32 | cd 80 | q[idt+400]=0000ee00000b4800 | rip=4800 esp=5bf4 d[5bf4]=10002 d[5bf8]=8 d[5bfc]=2
l64 | cd 80 | q[idt+800]=0000ee0000084800 | #gp(8)
p32.3 | cd 80 | q[idt+400]=0000ee0000984800 | cs=9b rip=4800 esp=8bf4 d[8bf4]=10002 d[8bf8]=4b d[8bfc]=2
p32.3 | cd 80 | q[idt+400]=0000ee0000484800 | cs=4b rip=4800 esp=8bf4 d[8bf4]=10002 d[8bf8]=4b d[8bfc]=2
l64.3 | cd 80 | q[idt+800]=0000ee0000604800 | cs=63 rip=4800 rsp=8bd8 q[8bd8]=10002 q[8be0]=63 q[8be8]=2 \
    q[8bf0]=8c00 q[8bf8]=53
v86 | cd 80 | q[idt+400]=0000ee0000984800 fl=23002 | #gp(98)
v86 | cd 80 | q[idt+400]=0000ee0000784800 fl=23002 | #gp(78)
v86 | cd 80 | q[idt+400]=0000ee0000484800 fl=23002 | #gp(48)
# Its stack.
p32.3 | cd 80 | q[idt+400]=0000ee0000784800 d[tss+10]=0 | #ts(0)
p32.3 | cd 80 | q[idt+400]=0000ee0000784800 d[tss+10]=80 | #ts(80)
p32.3 | cd 80 | q[idt+400]=0000ee0000784800 d[tss+10]=109 q[gdt+108]=00cf33000000ffff | #ss(108)
p32.3 | cd 80 | q[idt+400]=0000ee0000784800 d[tss+10]=109 q[gdt+108]=0040b30000006fff d[tss+c]=7001 | #ss(108)
p32.3 | cd 80 | q[idt+400]=0000ee0000784800 tr.limit=10 | #ts(28)
p32.3 | cd 80 | q[idt+400]=0000ee0000784800 | cs=79 ss=81 rip=4800 esp=6fec d[6fec]=10002 d[6ff0]=4b d[6ff4]=2 \
    d[6ff8]=8c00 d[6ffc]=53
# IST, and what is wrong with a stack pointer of the TSS.
l64.3 | cd 80 | q[idt+800]=0000ee0100584800 | cs=58 ss=0 rip=4800 rsp=5dd8 q[5dd8]=10002 q[5de0]=63 q[5de8]=2 \
    q[5df0]=8c00 q[5df8]=53
l64 | cd 80 | q[idt+800]=0000ee0100584800 | rip=4800 rsp=5dd8 q[5dd8]=10002 q[5de0]=58 q[5de8]=2 q[5df0]=5c00 \
    q[5df8]=10
l64 | cd 80 | q[idt+800]=0000ee0200584800 q[tss+2c]=0000800000000000 | #ss(0)
l64 | cd 80 | q[idt+800]=0000ee0200584800 tr.limit=32 | #ts(28)
# Exceptions: error codes have EXT, what fails while they are delivered is another exception or a double fault.
p32 | 0f 0b | | #ud
p32.3 | 0f 0b | | #ud
l64.3 | 0f 0b | | #ud
v86 | 0f 0b | | #ud
real | 0f 0b | | #ud
p32 | f7 f0 | | #de
p32 | 0f 0b | q[idt+30]=0 | #gp(33)
p32 | 0f 0b | q[idt+30]=00006e0000084060 | #np(33)
p32 | 0f 0b | q[idt+30]=0000ee0000104060 | #gp(11)
p32 | 8e d8 | eax=13 q[idt+68]=0 | #df(0)
p32 | f7 f0 | q[idt+0]=0 | #df(0)
p32 | f7 f0 | q[idt+0]=0 q[idt+40]=0 | shutdown
p32 | 0f 0b | q[idt+30]=0 q[idt+68]=0 | #df(0)
p32.3 | f7 f0 | tr.limit=8 | shutdown
l64 | 0f 0b | q[idt+60]=0 | #gp(33)
l64 | f7 f0 | q[idt+0]=0 | #df(0)
real | 0f 0b | idtr.limit=17 | shutdown
";
