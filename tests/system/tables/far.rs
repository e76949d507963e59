//! Far JMP, CALL and RET, call gates (SDM volume 2, JMP, CALL, RET; volume 3, 5.8).

pub const CASES: &str = "
# JMP ptr16:32
p32 | ea 00 20 01 00 08 00 | | cs=8 rip=12000
p32 | ea 00 20 01 00 0b 00 | | #gp(8)
p32 | ea 00 20 01 00 48 00 | | #gp(48)
p32 | ea 00 20 01 00 98 00 | | cs=98 rip=12000
p32 | ea 00 20 01 00 a0 00 | | #gp(a0)
p32 | ea 00 20 01 00 00 00 | | #gp(0)
p32 | ea 00 20 01 00 03 00 | | #gp(0)
p32 | ea 00 20 01 00 10 00 | | #gp(10)
p32 | ea 00 20 01 00 00 08 | | #gp(800)
p32 | ea 00 20 01 00 14 00 | | #gp(14)
p32 | ea 00 20 01 00 38 00 | | #gp(38)
p32 | ea 00 20 01 00 00 01 | q[gdt+100]=00cf1b000000ffff | #np(100)
p32 | ea 00 20 01 00 00 01 | q[gdt+100]=00419b0000001fff | #gp(0)
p32 | ea 00 20 01 00 00 01 | q[gdt+100]=00419b0000002000 | cs=100 rip=12000
p32 | ea 00 20 01 00 00 01 | q[gdt+100]=00cf98000000ffff | cs=100 rip=12000 q[gdt+100]=00cf99000000ffff
p32 | 66 ea 00 20 18 00 | | cs=18 rip=2000
p32.3 | ea 00 20 01 00 98 00 | | cs=9b rip=12000
p32.3 | ea 00 20 01 00 9b 00 | | cs=9b rip=12000
p32.3 | ea 00 20 01 00 a0 00 | | cs=a3 rip=12000
p32.3 | ea 00 20 01 00 48 00 | | cs=4b rip=12000
p32.3 | ea 00 20 01 00 08 00 | | #gp(8)
p32.3 | ea 00 20 01 00 17 00 | | cs=17 rip=12000
p16 | ea 00 20 18 00 | | cs=18 rip=2000
p16 | 66 ea 00 20 01 00 08 00 | | cs=8 rip=12000
real | ea 00 20 00 11 | | cs=1100 rip=2000
real | 66 ea 00 00 01 00 00 11 | | #gp(0)
v86 | ea 00 20 00 11 | | cs=1100 rip=2000
c32 | ea 00 20 01 00 58 00 | | cs=58 rip=12000
c32 | ea 00 20 01 00 08 00 | | cs=8 rip=12000
l64 | ea 00 20 01 00 08 00 | | #ud
# JMP m16:16, m16:32, m16:64
p32 | ff 2d 00 90 00 00 | d[data]=12000 w[data+4]=8 | cs=8 rip=12000
p32 | 66 ff 2d 00 90 00 00 | w[data]=2000 w[data+2]=18 | cs=18 rip=2000
l64 | ff 2c 25 00 90 00 00 | d[data]=12000 w[data+4]=58 | cs=58 rip=12000
l64 | 48 ff 2c 25 00 90 00 00 | q[data]=12000 w[data+8]=58 | cs=58 rip=12000
l64 | ff 2c 25 00 90 00 00 | d[data]=12000 w[data+4]=8 | cs=8 rip=12000
l64 | 48 ff 2c 25 00 90 00 00 | q[data]=0000800000000000 w[data+8]=58 | #gp(0)
l64 | ff 2c 25 00 90 00 00 | d[data]=12000 w[data+4]=100 q[gdt+100]=00ef9b000000ffff | #gp(100)
l64 | ff 2c 25 00 90 00 00 | d[data]=12000 w[data+4]=100 q[gdt+100]=00409b0000001fff | #gp(0)
l64 | ff 2c 25 00 90 00 00 | d[data]=12000 w[data+4]=28 | #gp(28)
l64.3 | ff 2c 25 00 90 00 00 | d[data]=12000 w[data+4]=4b | cs=4b rip=12000

# CALL ptr16:32
p32 | 9a 00 20 01 00 08 00 | | cs=8 rip=12000 esp=5bf8 d[5bf8]=10007 d[5bfc]=8
p32 | 66 9a 00 20 18 00 | | cs=18 rip=2000 esp=5bfc w[5bfc]=6 w[5bfe]=8
p32 | 9a 00 20 01 00 0b 00 | | #gp(8)
p32 | 9a 00 20 01 00 00 01 | q[gdt+100]=00419b0000001fff | #gp(0)
p32.3 | 9a 00 20 01 00 98 00 | | cs=9b rip=12000 esp=8bf8 d[8bf8]=10007 d[8bfc]=4b
p32.3 | 9a 00 20 01 00 48 00 | q[gdt+100]=0040f30000008bfe ss=103 | #ss(0)
p32.3 | 9a 00 20 01 00 48 00 | q[gdt+100]=0040f70000008bf8 ss=103 | #ss(0)
p16 | 9a 00 20 18 00 | | cs=18 rip=2000 esp=5bfc w[5bfc]=5 w[5bfe]=18
real | 9a 00 20 00 10 | | cs=1000 rip=2000 esp=5bfc w[5bfc]=5 w[5bfe]=1000
real | 66 9a 00 20 00 00 00 10 | | cs=1000 rip=2000 esp=5bf8 d[5bf8]=8 d[5bfc]=1000
v86 | 9a 00 20 00 10 | | cs=1000 rip=2000 esp=8bfc w[8bfc]=5 w[8bfe]=1000
l64 | ff 1c 25 00 90 00 00 | d[data]=12000 w[data+4]=58 | cs=58 rip=12000 rsp=5bf8 d[5bf8]=10007 d[5bfc]=58
l64 | 48 ff 1c 25 00 90 00 00 | q[data]=12000 w[data+8]=58 | cs=58 rip=12000 rsp=5bf0 q[5bf0]=10008 q[5bf8]=58
l64 | 9a 00 20 01 00 08 00 | | #ud

# Call gates at the same level: what they push goes by the gate.
p32 | 9a 00 00 00 00 00 01 | q[gdt+100]=0001ec0000082000 | cs=8 rip=12000 esp=5bf8 d[5bf8]=10007 d[5bfc]=8
p32 | 66 9a 00 00 00 01 | q[gdt+100]=0001ec0000082000 | cs=8 rip=12000 esp=5bf8 d[5bf8]=10006 d[5bfc]=8
p32 | 9a 00 00 00 00 00 01 | q[gdt+100]=0000e40000182000 | cs=18 rip=2000 esp=5bfc w[5bfc]=7 w[5bfe]=8
p32 | 9a 00 00 00 00 00 01 | q[gdt+100]=ffffe40000182000 | cs=18 rip=2000 esp=5bfc w[5bfc]=7 w[5bfe]=8
p32 | 9a 00 00 00 00 00 01 | q[gdt+100]=0001ec00000b2000 | cs=8 rip=12000 esp=5bf8 d[5bf8]=10007 d[5bfc]=8
p32 | 9a 00 00 00 00 00 01 | q[gdt+100]=0001ec0700082000 | cs=8 rip=12000 esp=5bf8 d[5bf8]=10007 d[5bfc]=8
p32 | ea 00 00 00 00 00 01 | q[gdt+100]=0001ec0000082000 | cs=8 rip=12000
p32 | ea 00 00 00 00 00 01 | q[gdt+100]=00018c00000b2000 | cs=8 rip=12000
p32.3 | 9a 00 00 00 00 03 01 | q[gdt+100]=0001ec0000982000 | cs=9b rip=12000 esp=8bf8 d[8bf8]=10007 d[8bfc]=4b
p32.3 | ea 00 00 00 00 03 01 | q[gdt+100]=0001ec0000982000 | cs=9b rip=12000
p32.3 | ea 00 00 00 00 03 01 | q[gdt+100]=0001ec0000482000 | cs=4b rip=12000
p32.3 | ea 00 00 00 00 03 01 | q[gdt+100]=0001ec0000082000 | #gp(8)
# To an inner level.
p32.3 | 9a 00 00 00 00 03 01 | q[gdt+100]=0001ec0000082000 | cs=8 ss=10 rip=12000 esp=5ff0 d[5ff0]=10007 d[5ff4]=4b \
    d[5ff8]=8c00 d[5ffc]=53
p32.3 | 9a 00 00 00 00 03 01 | q[gdt+100]=0001ec0000782000 | cs=79 ss=81 rip=12000 esp=6ff0 d[6ff0]=10007 \
    d[6ff4]=4b d[6ff8]=8c00 d[6ffc]=53
p32.3 | 9a 00 00 00 00 03 01 | q[gdt+100]=0001ec0200082000 d[sp]=11111111 d[sp+4]=22222222 | cs=8 ss=10 rip=12000 \
    esp=5fe8 d[5fe8]=10007 d[5fec]=4b d[5ff0]=11111111 d[5ff4]=22222222 d[5ff8]=8c00 d[5ffc]=53
p32.3 | 9a 00 00 00 00 03 01 | q[gdt+100]=0000e40000182000 | cs=18 ss=10 rip=2000 esp=5ff8 w[5ff8]=7 w[5ffa]=4b \
    w[5ffc]=8c00 w[5ffe]=53
p32.3 | 9a 00 00 00 00 03 01 | q[gdt+100]=0000e40100182000 w[sp]=9999 | cs=18 ss=10 rip=2000 esp=5ff6 w[5ff6]=7 \
    w[5ff8]=4b w[5ffa]=9999 w[5ffc]=8c00 w[5ffe]=53
p32.2 | 9a 00 00 00 00 02 01 | q[gdt+100]=0001ec0000782000 | cs=79 ss=81 rip=12000 esp=6ff0 d[6ff0]=10007 \
    d[6ff4]=8a d[6ff8]=7c00 d[6ffc]=92
# A 16-bit TSS: SP0 at 2, SS0 at 4.
p32.3 | 9a 00 00 00 00 03 01 | q[gdt+100]=0001ec0000082000 tr.rights=83 w[tss+2]=5f00 w[tss+4]=10 | cs=8 ss=10 \
    rip=12000 esp=5ef0 d[5ef0]=10007 d[5ef4]=4b d[5ef8]=8c00 d[5efc]=53
# What can be wrong with a gate.
p32.3 | 9a 00 00 00 00 03 01 | q[gdt+100]=00018c0000082000 | #gp(100)
p32 | 9a 00 00 00 00 03 01 | q[gdt+100]=00018c0000082000 | #gp(100)
p32 | 9a 00 00 00 00 00 01 | q[gdt+100]=00016c0000082000 | #np(100)
p32 | 9a 00 00 00 00 00 01 | q[gdt+100]=0001ec0000002000 | #gp(0)
p32 | 9a 00 00 00 00 00 01 | q[gdt+100]=0001ec0000032000 | #gp(0)
p32 | 9a 00 00 00 00 00 01 | q[gdt+100]=0001ec0000102000 | #gp(10)
p32 | 9a 00 00 00 00 00 01 | q[gdt+100]=0001ec0000482000 | #gp(48)
p32 | 9a 00 00 00 00 00 01 | q[gdt+100]=0001ec0008002000 | #gp(800)
p32 | 9a 00 00 00 00 00 01 | q[gdt+100]=0001ec0001082000 q[gdt+108]=00cf1b000000ffff | #np(108)
p32 | 9a 00 00 00 00 00 01 | q[gdt+100]=0001ec0001082000 q[gdt+108]=00409b0000001fff | #gp(0)
p32 | 9a 00 00 00 00 00 01 | q[gdt+100]=0001ec0001082000 q[gdt+108]=0001ec0000082000 | #gp(108)
p32 | 9a 00 00 00 00 00 01 | q[gdt+100]=0001ee0000082000 | #gp(100)
# What can be wrong with the inner stack.
p32.3 | 9a 00 00 00 00 03 01 | q[gdt+100]=0001ec0000782000 d[tss+10]=0 | #ts(0)
p32.3 | 9a 00 00 00 00 03 01 | q[gdt+100]=0001ec0000782000 d[tss+10]=801 | #ts(800)
p32.3 | 9a 00 00 00 00 03 01 | q[gdt+100]=0001ec0000782000 d[tss+10]=80 | #ts(80)
p32.3 | 9a 00 00 00 00 03 01 | q[gdt+100]=0001ec0000782000 d[tss+10]=11 | #ts(10)
p32.3 | 9a 00 00 00 00 03 01 | q[gdt+100]=0001ec0000782000 d[tss+10]=79 | #ts(78)
p32.3 | 9a 00 00 00 00 03 01 | q[gdt+100]=0001ec0000782000 d[tss+10]=109 q[gdt+108]=00cf33000000ffff | #ss(108)
p32.3 | 9a 00 00 00 00 03 01 | q[gdt+100]=0001ec0000782000 d[tss+10]=109 q[gdt+108]=0040b30000006fff d[tss+c]=7001 \
    | #ss(108)
p32.3 | 9a 00 00 00 00 03 01 | q[gdt+100]=0001ec0000782000 tr.limit=10 | #ts(28)
p32.3 | 9a 00 00 00 00 03 01 | q[gdt+100]=0001ec0000782000 tr.limit=11 | cs=79 ss=81 rip=12000 esp=6ff0 \
    d[6ff0]=10007 d[6ff4]=4b d[6ff8]=8c00 d[6ffc]=53
# A 16-bit inner stack segment.
p32.3 | 9a 00 00 00 00 03 01 | q[gdt+100]=0001ec0000782000 d[tss+10]=109 q[gdt+108]=0000b3000000ffff d[tss+c]=46f00 \
    | cs=79 ss=109 rip=12000 esp=46ef0 d[6ef0]=10007 d[6ef4]=4b d[6ef8]=8c00 d[6efc]=53
# Gates of long mode.
l64 | ff 1c 25 00 90 00 00 | w[data+4]=100 q[gdt+100]=0001ec0000582000 | cs=58 rip=12000 rsp=5bf0 q[5bf0]=10007 \
    q[5bf8]=58
l64.3 | ff 1c 25 00 90 00 00 | w[data+4]=103 q[gdt+100]=0001ec0000582000 | cs=58 ss=0 rip=12000 rsp=5fe0 \
    q[5fe0]=10007 q[5fe8]=63 q[5ff0]=8c00 q[5ff8]=53
c32.3 | ff 1d 00 90 00 00 | w[data+4]=103 q[gdt+100]=0001ec0000582000 | cs=58 ss=0 rip=12000 rsp=5fe0 q[5fe0]=10006 \
    q[5fe8]=4b q[5ff0]=8c00 q[5ff8]=53
l64.3 | ff 1c 25 00 90 00 00 | w[data+4]=103 q[gdt+100]=0001ec0000582000 q[tss+4]=5ff7 | cs=58 ss=0 rip=12000 \
    rsp=5fd7 q[5fd7]=10007 q[5fdf]=63 q[5fe7]=8c00 q[5fef]=53
l64 | ff 2c 25 00 90 00 00 | w[data+4]=100 q[gdt+100]=0001ec0000582000 | cs=58 rip=12000
l64 | ff 1c 25 00 90 00 00 | w[data+4]=100 q[gdt+100]=0001ec0000582000 q[gdt+108]=0000010000000000 | #gp(100)
l64 | ff 1c 25 00 90 00 00 | w[data+4]=100 q[gdt+100]=0001ec0000582000 q[gdt+108]=8000 | #gp(0)
l64 | ff 1c 25 00 90 00 00 | w[data+4]=100 q[gdt+100]=0001ec0000082000 | #gp(8)
l64 | ff 1c 25 00 90 00 00 | w[data+4]=100 q[gdt+100]=0000e40000582000 | #gp(100)
l64 | ff 1c 25 00 90 00 00 | w[data+4]=7f8 q[gdt+7f8]=0001ec0000582000 | #gp(7f8)
l64 | ff 1c 25 00 90 00 00 | w[data+4]=100 q[gdt+100]=00016c0000582000 | #np(100)
l64.3 | ff 1c 25 00 90 00 00 | w[data+4]=103 q[gdt+100]=00018c0000582000 | #gp(100)
l64.3 | ff 1c 25 00 90 00 00 | w[data+4]=7fb q[ldt+8]=0 | #gp(7f8)
# A gate in the LDT.
l64 | ff 1c 25 00 90 00 00 | w[data+4]=24 q[ldt+20]=0001ec0000582000 q[ldt+28]=0 | cs=58 rip=12000 rsp=5bf0 \
    q[5bf0]=10007 q[5bf8]=58
l64 | ff 1c 25 00 90 00 00 | w[data+4]=24 q[ldt+20]=0001ec0000582000 ldtr.limit=2e | #gp(24)

# RET
p32 | cb | d[sp]=12000 d[sp+4]=8 | cs=8 rip=12000 esp=5c08
p32 | ca 08 00 | d[sp]=12000 d[sp+4]=8 | cs=8 rip=12000 esp=5c10
p32 | 66 cb | w[sp]=2000 w[sp+2]=18 | cs=18 rip=2000 esp=5c04
p32 | cb | d[sp]=12000 d[sp+4]=98 | cs=98 rip=12000 esp=5c08
p32 | cb | d[sp]=12000 d[sp+4]=0 | #gp(0)
p32 | cb | d[sp]=12000 d[sp+4]=10 | #gp(10)
p32 | cb | d[sp]=12000 d[sp+4]=48 | #gp(48)
p32 | cb | d[sp]=12000 d[sp+4]=800 | #gp(800)
p32 | cb | d[sp]=12000 d[sp+4]=100 q[gdt+100]=00cf1b000000ffff | #np(100)
p32 | cb | d[sp]=12000 d[sp+4]=100 q[gdt+100]=00409b0000001fff | #gp(0)
p32 | cb | d[sp]=12000 d[sp+4]=100 q[gdt+100]=00cf9a000000ffff | cs=100 rip=12000 esp=5c08 q[gdt+100]=00cf9b000000ffff
p32.3 | cb | d[sp]=12000 d[sp+4]=8 | #gp(8)
p32.3 | cb | d[sp]=12000 d[sp+4]=4b | cs=4b rip=12000 esp=8c08
p32.3 | cb | d[sp]=12000 d[sp+4]=98 | #gp(98)
p32.3 | cb | d[sp]=12000 d[sp+4]=9b | cs=9b rip=12000 esp=8c08
# To an outer level.
p32 | cb | d[sp]=12000 d[sp+4]=4b d[sp+8]=8c00 d[sp+c]=53 | cs=4b ss=53 rip=12000 esp=8c00 ds=0 es=0 fs=0 gs=0
p32 | cb | d[sp]=12000 d[sp+4]=4b d[sp+8]=8c00 d[sp+c]=53 ds=53 es=50 fs=98 gs=8 | cs=4b ss=53 rip=12000 esp=8c00 gs=0
p32 | ca 04 00 | d[sp]=12000 d[sp+4]=4b d[sp+c]=8c00 d[sp+10]=53 | cs=4b ss=53 rip=12000 esp=8c04 ds=0 es=0 fs=0 gs=0
p32 | cb | d[sp]=12000 d[sp+4]=79 d[sp+8]=6c00 d[sp+c]=81 ds=81 es=53 fs=0 gs=92 | cs=79 ss=81 rip=12000 esp=6c00
p32 | cb | d[sp]=12000 d[sp+4]=9b d[sp+8]=8c00 d[sp+c]=53 ds=0 es=0 fs=0 gs=0 | cs=9b ss=53 rip=12000 esp=8c00
p32 | cb | d[sp]=12000 d[sp+4]=4b d[sp+8]=8c00 d[sp+c]=0 | #gp(0)
p32 | cb | d[sp]=12000 d[sp+4]=4b d[sp+8]=8c00 d[sp+c]=50 | #gp(50)
p32 | cb | d[sp]=12000 d[sp+4]=4b d[sp+8]=8c00 d[sp+c]=13 | #gp(10)
p32 | cb | d[sp]=12000 d[sp+4]=4b d[sp+8]=8c00 d[sp+c]=4b | #gp(48)
p32 | cb | d[sp]=12000 d[sp+4]=4b d[sp+8]=8c00 d[sp+c]=103 q[gdt+100]=00cf73000000ffff | #ss(100)
p32 | cb | d[sp]=12000 d[sp+4]=4b d[sp+8]=48c00 d[sp+c]=73 ds=0 es=0 fs=0 gs=0 esp=5c00 | cs=4b ss=73 rip=12000 \
    esp=8c00
real | cb | w[sp]=2000 w[sp+2]=1100 | cs=1100 rip=2000 esp=5c04
real | ca 02 00 | w[sp]=2000 w[sp+2]=1100 | cs=1100 rip=2000 esp=5c06
real | 66 cb | d[sp]=12000 d[sp+4]=1100 | #gp(0)
v86 | cb | w[sp]=2000 w[sp+2]=1100 | cs=1100 rip=2000 esp=8c04
l64 | 48 cb | q[sp]=12000 q[sp+8]=58 | cs=58 rip=12000 rsp=5c10
l64 | 48 cb | q[sp]=12000 q[sp+8]=63 q[sp+10]=8c00 q[sp+18]=53 ds=0 es=0 fs=0 gs=0 | cs=63 ss=53 rip=12000 rsp=8c00
l64 | 48 cb | q[sp]=12000 q[sp+8]=63 q[sp+10]=8c00 q[sp+18]=3 | #gp(0)
l64 | cb | d[sp]=12000 d[sp+4]=4b d[sp+8]=8c00 d[sp+c]=53 ds=0 es=0 fs=0 gs=0 | cs=4b ss=53 rip=12000 rsp=8c00
l64 | 48 cb | q[sp]=0000800000000000 q[sp+8]=58 | #gp(0)
l64 | 48 cb | q[sp]=12000 q[sp+8]=100 q[gdt+100]=00ef9b000000ffff | #gp(100)
";
