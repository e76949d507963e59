//! IRET in all its forms but to another task (SDM volume 2, IRET).

pub const CASES: &str = "
p32 | cf | d[sp]=12000 d[sp+4]=8 d[sp+8]=202 | cs=8 rip=12000 esp=5c0c fl=202
p32 | 66 cf | w[sp]=2000 w[sp+2]=18 w[sp+4]=202 fl=40002 | cs=18 rip=2000 esp=5c06 fl=40202
p32 | cf | d[sp]=12000 d[sp+4]=8 d[sp+8]=247ed7 | cs=8 rip=12000 esp=5c0c fl=247ed7
p32 | cf | d[sp]=12000 d[sp+4]=98 d[sp+8]=2 | cs=98 rip=12000 esp=5c0c
p32 | cf | d[sp]=12000 d[sp+4]=0 d[sp+8]=2 | #gp(0)
p32 | cf | d[sp]=12000 d[sp+4]=10 d[sp+8]=2 | #gp(10)
p32 | cf | d[sp]=12000 d[sp+4]=48 d[sp+8]=2 | #gp(48)
p32 | cf | d[sp]=12000 d[sp+4]=100 d[sp+8]=2 q[gdt+100]=00cf1b000000ffff | #np(100)
p32 | cf | d[sp]=12000 d[sp+4]=100 d[sp+8]=2 q[gdt+100]=00409b0000001fff | #gp(0)
p32 | cf | d[sp]=12000 d[sp+4]=100 d[sp+8]=2 q[gdt+100]=00cf9a000000ffff | cs=100 rip=12000 esp=5c0c \
    q[gdt+100]=00cf9b000000ffff
p32.3 | cf | d[sp]=12000 d[sp+4]=8 d[sp+8]=2 | #gp(8)
# What may change in the flags depends on CPL and IOPL.
p32.3 | cf | d[sp]=12000 d[sp+4]=4b d[sp+8]=243ed7 | cs=4b rip=12000 esp=8c0c fl=240cd7
p32.3 | cf | d[sp]=12000 d[sp+4]=4b d[sp+8]=202 fl=3002 | cs=4b rip=12000 esp=8c0c fl=3202
p32.3 | cf | d[sp]=12000 d[sp+4]=4b d[sp+8]=20002 | cs=4b rip=12000 esp=8c0c
p32.1 | cf | d[sp]=12000 d[sp+4]=79 d[sp+8]=3202 fl=1002 | cs=79 rip=12000 esp=6c0c fl=1202
# To an outer level.
p32 | cf | d[sp]=12000 d[sp+4]=4b d[sp+8]=3202 d[sp+c]=8c00 d[sp+10]=53 | cs=4b ss=53 rip=12000 esp=8c00 fl=3202 \
    ds=0 es=0 fs=0 gs=0
p32 | cf | d[sp]=12000 d[sp+4]=4b d[sp+8]=2 d[sp+c]=8c00 d[sp+10]=53 ds=53 es=50 fs=98 gs=8 | cs=4b ss=53 rip=12000 \
    esp=8c00 gs=0
p32 | 66 cf | w[sp]=2000 w[sp+2]=6b w[sp+4]=2 w[sp+6]=8c00 w[sp+8]=73 ds=0 es=0 fs=0 gs=0 | cs=6b ss=73 rip=2000 \
    esp=8c00
p32 | cf | d[sp]=12000 d[sp+4]=4b d[sp+8]=2 d[sp+c]=8c00 d[sp+10]=0 | #gp(0)
p32 | cf | d[sp]=12000 d[sp+4]=4b d[sp+8]=2 d[sp+c]=8c00 d[sp+10]=50 | #gp(50)
p32 | cf | d[sp]=12000 d[sp+4]=4b d[sp+8]=2 d[sp+c]=8c00 d[sp+10]=13 | #gp(10)
p32 | cf | d[sp]=12000 d[sp+4]=4b d[sp+8]=2 d[sp+c]=8c00 d[sp+10]=103 q[gdt+100]=00cf73000000ffff | #ss(100)
p32.1 | cf | d[sp]=12000 d[sp+4]=4b d[sp+8]=3202 d[sp+c]=8c00 d[sp+10]=53 ds=0 es=0 fs=0 gs=0 | cs=4b ss=53 \
    rip=12000 esp=8c00
# To virtual-8086 mode: only from level 0.
p32 | cf | d[sp]=100 d[sp+4]=1100 d[sp+8]=23202 d[sp+c]=8c00 d[sp+10]=1 d[sp+14]=2 d[sp+18]=3 d[sp+1c]=4 d[sp+20]=5 \
    | fl=23202 cs=1100 rip=100 ss=1 esp=8c00 es=2 ds=3 fs=4 gs=5
p32 | cf | d[sp]=10000 d[sp+4]=1100 d[sp+8]=20002 d[sp+c]=8c00 d[sp+10]=1 | #gp(0)
p32.3 | cf | d[sp]=12000 d[sp+4]=1100 d[sp+8]=20002 | #gp(1100)
# Within virtual-8086 mode: by IOPL, which stays.
v86 | cf | w[sp]=100 w[sp+2]=1100 w[sp+4]=202 | #gp(0)
v86 | cf | w[sp]=100 w[sp+2]=1100 w[sp+4]=202 fl=22002 | #gp(0)
v86 | cf | w[sp]=100 w[sp+2]=1100 w[sp+4]=202 fl=23002 | fl=23202 cs=1100 rip=100 esp=8c06
v86 | 66 cf | d[sp]=100 d[sp+4]=1100 d[sp+8]=240cd7 fl=23002 | fl=263cd7 cs=1100 rip=100 esp=8c0c
v86 | 66 cf | d[sp]=10000 d[sp+4]=1100 d[sp+8]=2 fl=23002 | #gp(0)
real | cf | w[sp]=2000 w[sp+2]=1100 w[sp+4]=3202 | fl=3202 cs=1100 rip=2000 esp=5c06
real | 66 cf | d[sp]=2000 d[sp+4]=1100 d[sp+8]=240202 | fl=240202 cs=1100 rip=2000 esp=5c0c
real | 66 cf | d[sp]=12000 d[sp+4]=1100 d[sp+8]=2 | #gp(0)
# Long mode: SS:RSP is always popped.
l64 | 48 cf | q[sp]=12000 q[sp+8]=58 q[sp+10]=202 q[sp+18]=5801 q[sp+20]=10 | cs=58 ss=10 rip=12000 rsp=5801 fl=202
l64 | 48 cf | q[sp]=12000 q[sp+8]=58 q[sp+10]=2 q[sp+18]=5800 q[sp+20]=0 | cs=58 ss=0 rip=12000 rsp=5800
l64 | cf | d[sp]=12000 d[sp+4]=58 d[sp+8]=2 d[sp+c]=5800 d[sp+10]=10 | cs=58 ss=10 rip=12000 rsp=5800
l64 | 48 cf | q[sp]=12000 q[sp+8]=63 q[sp+10]=202 q[sp+18]=8c00 q[sp+20]=53 ds=0 es=0 fs=0 gs=0 | cs=63 ss=53 \
    rip=12000 rsp=8c00 fl=202
l64 | 48 cf | q[sp]=12000 q[sp+8]=4b q[sp+10]=202 q[sp+18]=8c00 q[sp+20]=53 ds=0 es=0 fs=0 gs=0 | cs=4b ss=53 \
    rip=12000 rsp=8c00 fl=202
l64 | 48 cf | q[sp]=12000 q[sp+8]=8 q[sp+10]=2 q[sp+18]=5800 q[sp+20]=10 | cs=8 ss=10 rip=12000 rsp=5800
l64 | 48 cf | q[sp]=12000 q[sp+8]=63 q[sp+10]=2 q[sp+18]=8c00 q[sp+20]=3 | #gp(0)
l64 | 48 cf | q[sp]=12000 q[sp+8]=8 q[sp+10]=2 q[sp+18]=5800 q[sp+20]=0 | #gp(0)
l64 | 48 cf | q[sp]=0000800000000000 q[sp+8]=58 q[sp+10]=2 q[sp+18]=5800 q[sp+20]=10 | #gp(0)
l64 | 48 cf | q[sp]=12000 q[sp+8]=58 q[sp+10]=2 fl=4002 | #gp(0)
l64.3 | 48 cf | q[sp]=12000 q[sp+8]=63 q[sp+10]=3202 q[sp+18]=8800 q[sp+20]=53 | cs=63 ss=53 rip=12000 rsp=8800
c32 | cf | d[sp]=12000 d[sp+4]=8 d[sp+8]=202 | cs=8 rip=12000 esp=5c0c fl=202
c32 | cf | d[sp]=12000 d[sp+4]=58 d[sp+8]=202 | cs=58 rip=12000 esp=5c0c fl=202
c32 | cf | d[sp]=12000 d[sp+4]=4b d[sp+8]=20202 d[sp+c]=8c00 d[sp+10]=53 ds=0 es=0 fs=0 gs=0 | cs=4b ss=53 \
    rip=12000 esp=8c00 fl=202
";
