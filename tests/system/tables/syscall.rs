//! SYSCALL, SYSRET, SYSENTER, SYSEXIT as Intel's processors have them (SDM volume 2).

pub const CASES: &str = "
l64.3 | 0f 05 | star=0013000800000000 lstar=12000 fmask=200 fl=202 | cs.sel=8 cs.rights=a09b ss.sel=10 \
    ss.rights=c093 cs.limit=ffffffff ss.limit=ffffffff rip=12000 rcx=10002 r11=202 fl=2 cs.base=0 CPL=0
l64 | 0f 05 | star=0013000800000000 lstar=12000 fmask=0 fl=202 | cs.sel=8 cs.rights=a09b ss.sel=10 ss.rights=c093 \
    cs.limit=ffffffff ss.limit=ffffffff rip=12000 rcx=10002 r11=202
l64 | 0f 05 | efer=500 | #ud
p32.3 | 0f 05 | efer=1 | #ud
c32.3 | 0f 05 | | #ud
l64 | 48 0f 07 | star=0043000800000000 rcx=12000 r11=202 | cs.sel=53 cs.rights=a0fb cs.limit=ffffffff ss.sel=4b \
    ss.rights=c0f3 ss.limit=ffffffff rip=12000 fl=202 CPL=3
l64 | 0f 07 | star=0043000800000000 rcx=ffffffff00012000 r11=3202 | cs.sel=43 cs.rights=c0fb cs.limit=ffffffff \
    ss.sel=4b ss.rights=c0f3 ss.limit=ffffffff rip=12000 fl=3202 CPL=3
l64 | 48 0f 07 | rcx=0000800000000000 | #gp(0)
l64.3 | 48 0f 07 | | #gp(0)
l64 | 48 0f 07 | efer=500 | #ud
c32 | 0f 07 | | #ud
p32.3 | 0f 34 | sysenter_cs=9 sysenter_esp=5800 sysenter_eip=12000 fl=202 | cs.sel=8 cs.rights=c09b \
    cs.limit=ffffffff ss.sel=10 ss.rights=c093 ss.limit=ffffffff esp=5800 rip=12000 fl=2 CPL=0
p32.3 | 0f 34 | sysenter_cs=3 | #gp(0)
l64.3 | 0f 34 | sysenter_cs=8 sysenter_esp=ffff800000005800 sysenter_eip=12000 | cs.sel=8 cs.rights=a09b \
    cs.limit=ffffffff ss.sel=10 ss.rights=c093 ss.limit=ffffffff rsp=ffff800000005800 rip=12000 CPL=0
v86 | 0f 34 | sysenter_cs=8 sysenter_esp=5800 sysenter_eip=12000 fl=20202 | cs.sel=8 cs.rights=c09b \
    cs.limit=ffffffff cs.base=0 ss.sel=10 ss.rights=c093 ss.limit=ffffffff esp=5800 rip=12000 fl=2 CPL=0
real | 0f 34 | sysenter_cs=8 | #gp
p32 | 0f 35 | sysenter_cs=38 edx=12000 ecx=8800 | cs.sel=4b cs.rights=c0fb cs.limit=ffffffff ss.sel=53 \
    ss.rights=c0f3 ss.limit=ffffffff rip=12000 esp=8800 CPL=3
p32 | 0f 35 | sysenter_cs=0 | #gp(0)
p32.3 | 0f 35 | sysenter_cs=38 | #gp(0)
l64 | 48 0f 35 | sysenter_cs=38 rdx=12000 rcx=8800 | cs.sel=5b cs.rights=a0fb cs.limit=ffffffff ss.sel=63 \
    ss.rights=c0f3 ss.limit=ffffffff rip=12000 rsp=8800 CPL=3
l64 | 48 0f 35 | sysenter_cs=38 rdx=0000800000000000 rcx=8800 | #gp(0)
";
