//! Interrupts from outside and NMIs through gates of each kind (SDM volume 3, 6.8 to 6.15).

pub const CASES: &str = "
p32 | 90 | irq=80 |
p32 | 90 | irq=80 fl=202 | irq=80
p32.3 | 90 | irq=80 fl=202 | irq=80
p32.1 | 90 | irq=80 fl=202 | irq=80
p16 | 90 | irq=80 fl=202 | irq=80
p16.3 | 90 | irq=80 fl=202 | irq=80
c32 | 90 | irq=80 fl=202 | irq=80
c32.3 | 90 | irq=80 fl=202 | irq=80
l64 | 90 | irq=80 fl=202 | irq=80
l64.3 | 90 | irq=80 fl=202 | irq=80
real | 90 | irq=80 fl=202 | irq=80
v86 | 90 | irq=80 fl=20202 | irq=80
v86 | 90 | irq=80 fl=23202 | irq=80
v86 | 90 | irq=80 fl=20002 |
# The gate's DPL does not count.
p32.3 | 90 | irq=80 fl=202 q[idt+400]=00008e0000084800 | irq=80
v86 | 90 | irq=80 fl=20202 q[idt+400]=00008e0000084800 | irq=80
# NMIs do not ask for IF.
p32 | 90 | nmi=2 | irq=2
l64.3 | 90 | nmi=2 | irq=2
real | 90 | nmi=2 | irq=2
v86 | 90 | nmi=2 fl=20002 | irq=2
# What goes wrong has EXT in its error code.
p32 | 90 | irq=80 fl=202 q[idt+400]=0 | #gp(403)
p32 | 90 | irq=80 fl=202 q[idt+400]=00000e0000084800 | #np(403)
p32 | 90 | irq=80 fl=202 q[idt+400]=00008e0000104800 | #gp(11)
p32 | 90 | irq=80 fl=202 q[idt+400]=00008e0000004800 | #gp(1)
p32 | 90 | irq=80 fl=202 q[idt+400]=00008e0001004800 q[gdt+100]=00cf1b000000ffff | #np(101)
p32 | 90 | irq=80 fl=202 idtr.limit=406 | #gp(403)
p32.3 | 90 | irq=80 fl=202 q[idt+400]=00008e0000784800 d[tss+10]=0 | #ts(1)
p32.3 | 90 | irq=80 fl=202 q[idt+400]=00008e0000784800 d[tss+10]=80 | #ts(81)
p32.3 | 90 | irq=80 fl=202 q[idt+400]=00008e0000784800 d[tss+10]=109 q[gdt+108]=00cf33000000ffff | #ss(109)
p32.3 | 90 | irq=80 fl=202 q[idt+400]=00008e0000784800 tr.limit=10 | #ts(29)
v86 | 90 | irq=80 fl=20202 q[idt+400]=00008e0000784800 | #gp(79)
l64 | 90 | irq=80 fl=202 q[idt+800]=00008e0000084800 | #gp(9)
l64 | 90 | irq=80 fl=202 q[idt+808]=8000 | #gp(1)
l64 | 90 | irq=80 fl=202 q[idt+800]=00008e0200584800 q[tss+2c]=0000800000000000 | #ss(1)
p32 | 90 | irq=80 fl=202 q[idt+400]=0000850001100000 q[gdt+110]=0000890032000066 | #ts(111)
p32 | 90 | irq=80 fl=202 q[idt+400]=0 q[idt+68]=0 | #df(0)
# Through a task gate.
p32 | 90 | irq=80 fl=202 q[idt+400]=0000850001100000 q[gdt+110]=0000890032000067 d[3220]=12000 d[3224]=2 \
    d[3238]=5800 w[324c]=8 w[3250]=10 | tr=110 ldtr=0 q[gdt+110]=00008b0032000067 w[3200]=28 cr0=39 fl=4002 \
    d[tss+20]=10000 d[tss+24]=202 d[tss+38]=5c00 w[tss+48]=10 w[tss+4c]=8 w[tss+50]=10 w[tss+54]=10 w[tss+58]=10 \
    w[tss+5c]=10 rip=12000 esp=5800 ds=0 es=0 fs=0 gs=0
";
