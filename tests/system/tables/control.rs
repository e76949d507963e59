//! MOV to and from control registers, CLTS, LMSW, SMSW, RDMSR, WRMSR (SDM volume 2; volume 3, 2.5; volume 4).

pub const CASES: &str = "
p32 | 0f 20 c0 | | eax=31
p32 | 0f 20 d0 | cr2=12345678 | eax=12345678
p32 | 0f 22 d0 | eax=87654321 | cr2=87654321
p32 | 0f 20 c8 | | #ud
p32 | 0f 22 c8 | | #ud
p32 | 0f 20 e8 | | #ud
p32.3 | 0f 20 c0 | | #gp(0)
p32.3 | 0f 22 c0 | | #gp(0)
p32.1 | 0f 20 d8 | | #gp(0)
l64 | 0f 20 c0 | rax=ffffffffffffffff | rax=80000031
# CR0
p32 | 0f 22 c0 | eax=3b | cr0=3b
p32 | 0f 22 c0 | eax=2b | cr0=3b
p32 | 0f 22 c0 | eax=ffc1 | cr0=11
p32 | 0f 22 c0 | eax=60000031 | cr0=60000031
p32 | 0f 22 c0 | eax=20000031 | #gp(0)
p32 | 0f 22 c0 | eax=80000030 | #gp(0)
p32 | 0f 22 c0 | eax=50031 | cr0=50031
p32 | 0f 22 c0 | eax=80000031 cr4=10 d[0]=83 cr3=0 | cr0=80000031
real | 0f 22 c0 | eax=31 | cr0=31
l64 | 0f 22 c0 | rax=31 | #gp(0)
l64 | 0f 22 c0 | rax=180000031 | #gp(0)
l64 | 0f 22 c0 | rax=80010031 | cr0=80010031
c32 | 0f 22 c0 | eax=31 | cr0=31 efer=101
p32 | 0f 22 c0 | eax=80000031 efer=100 | #gp(0)
p32 | 0f 22 c0 | eax=80000031 efer=100 cr4=20 cr3=20000 | cr0=80000031 efer=500
# CR3: in 64-bit mode the bits above the physical address are reserved.
l64 | 0f 22 d8 | rax=20000 cr3=20000 |
l64 | 0f 22 d8 | rax=20018 | cr3=20018
l64 | 0f 22 d8 | rax=8000000000020000 | #gp(0)
p32 | 0f 22 d8 | eax=ffffffff | cr3=ffffffff
# PAE: the page-directory-pointer entries are checked.
p32 | 0f 22 d8 | eax=9020 cr0=80000031 cr4=20 cr3=9000 q[data]=22001 pdpte0=22001 q[9020]=22001 | cr3=9020
p32 | 0f 22 d8 | eax=903f cr0=80000031 cr4=20 cr3=9000 q[data]=22001 pdpte0=22001 q[9020]=22001 | cr3=903f
p32 | 0f 22 d8 | eax=9020 cr0=80000031 cr4=20 cr3=9000 q[data]=22001 pdpte0=22001 q[9020]=22003 | #gp(0)
p32 | 0f 22 d8 | eax=9020 cr0=80000031 cr4=20 cr3=9000 q[data]=22001 pdpte0=22001 q[9020]=22001 q[9038]=1e1 | #gp(0)
p32 | 0f 22 d8 | eax=9020 cr0=80000031 cr4=20 cr3=9000 q[data]=22001 pdpte0=22001 q[9020]=22001 q[9028]=10000000001 \
    | #gp(0)
p32 | 0f 22 d8 | eax=9020 cr0=80000031 cr4=20 cr3=9000 q[data]=22001 pdpte0=22001 q[9020]=22001 q[9028]=1e6 | cr3=9020
# CR4
p32 | 0f 22 e0 | eax=30 | cr4=30
p32 | 0f 22 e0 | eax=80000000 | #gp(0)
p32 | 0f 22 e0 | eax=1 | #gp(0)
p32 | 0f 22 e0 | eax=2 | #gp(0)
p32 | 0f 22 e0 | eax=2000 | #gp(0)
p32 | 0f 22 e0 | eax=20000 | #gp(0)
p32 | 0f 22 e0 | eax=310674 | cr4=310674
l64 | 0f 22 e0 | rax=0 | #gp(0)
l64 | 0f 22 e0 | rax=100000020 | #gp(0)
l64 | 0f 22 e0 | rax=a0 | cr4=a0
# CLTS, LMSW, SMSW
p32 | 0f 06 | cr0=39 | cr0=31
p32.3 | 0f 06 | cr0=39 | #gp(0)
p32 | 0f 01 f0 | eax=fffe | cr0=3f
p32 | 0f 01 f0 | eax=0 cr0=3f | cr0=31
real | 0f 01 f0 | eax=1 | cr0=31
p32.3 | 0f 01 f0 | eax=1 | #gp(0)
p32 | 0f 01 35 00 90 00 00 | w[data]=8 | cr0=39
p32 | 66 0f 01 e0 | eax=ffffffff | eax=ffff0031
p32 | 0f 01 e0 | cr0=60050039 | eax=60050039
p32.3 | 0f 01 e0 | | eax=31
p32.3 | 0f 01 e0 | cr4=800 | #gp(0)
p32 | 0f 01 25 00 90 00 00 | d[data]=ffffffff | d[data]=ffff0031
# Model-specific registers
p32 | 0f 32 | ecx=174 sysenter_cs=123456789a edx=7 | eax=3456789a edx=12
p32 | 0f 30 | ecx=174 eax=8 edx=0 | sysenter_cs=8
p32 | 0f 32 | ecx=12345 | #gp(0)
p32 | 0f 30 | ecx=12345 | #gp(0)
p32.3 | 0f 32 | ecx=174 | #gp(0)
l64.3 | 0f 30 | ecx=174 | #gp(0)
l64 | 0f 30 | rcx=ffffffff00000174 rax=ffffffff00000008 rdx=ffffffff00000000 | sysenter_cs=8
l64 | 0f 30 | ecx=c0000082 eax=1 edx=8000 | #gp(0)
l64 | 0f 30 | ecx=c0000082 eax=1 edx=7fff | lstar=7fff00000001
l64 | 0f 30 | ecx=c0000102 eax=1 edx=ffff8000 | kernel_gs=ffff800000000001
l64 | 0f 30 | ecx=c0000100 eax=1 edx=80000000 | #gp(0)
l64 | 0f 30 | ecx=c0000100 eax=1 edx=ffff8000 | fs.base=ffff800000000001
l64 | 0f 30 | ecx=176 eax=1 edx=8000 | #gp(0)
l64 | 0f 30 | ecx=277 eax=2 edx=0 | #gp(0)
l64 | 0f 30 | ecx=277 eax=07040600 edx=01050406 | pat=0105040607040600
l64 | 0f 30 | ecx=c0000080 eax=d01 edx=0 | efer=d01
l64 | 0f 30 | ecx=c0000080 eax=400 edx=0 | #gp(0)
l64 | 0f 30 | ecx=c0000080 eax=503 edx=0 | #gp(0)
p32 | 0f 30 | ecx=c0000080 eax=400 edx=0 | efer=0
p32 | 0f 30 | ecx=c0000080 eax=901 edx=0 | efer=901
l64 | 0f 30 | ecx=c0000103 eax=5 edx=1 | #gp(0)
";
