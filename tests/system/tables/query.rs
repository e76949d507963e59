//! LAR, LSL, VERR, VERW, ARPL (SDM volume 2).

pub const CASES: &str = "
# LAR EAX, ECX
p32 | 0f 02 c1 | ecx=8 | eax=cf9b00 fl=42
p32 | 0f 02 c1 | ecx=0 eax=77 fl=42 | fl=2
p32 | 0f 02 c1 | ecx=800 eax=77 fl=42 | fl=2
p32 | 0f 02 c1 | ecx=b | fl=2
p32 | 0f 02 c1 | ecx=53 | eax=cff300 fl=42
p32 | 0f 02 c1 | ecx=9b | eax=cf9f00 fl=42
p32 | 66 0f 02 c1 | ecx=8 eax=ffffffff | eax=ffff9b00 fl=42
p32 | 0f 02 c1 | ecx=100 q[gdt+100]=00cf1b000000ffff | eax=cf1b00 fl=42
p32.3 | 0f 02 c1 | ecx=8 fl=42 | fl=2
p32.3 | 0f 02 c1 | ecx=98 | eax=cf9f00 fl=42
p32 | 0f 02 c1 | ecx=28 | eax=8b00 fl=42
p32 | 0f 02 c1 | ecx=38 | eax=8200 fl=42
p32 | 0f 02 c1 | ecx=100 q[gdt+100]=0000800000000000 fl=42 | fl=2
p32 | 0f 02 c1 | ecx=100 q[gdt+100]=0000810000000000 | eax=8100 fl=42
p32 | 0f 02 c1 | ecx=100 q[gdt+100]=0000830000000000 | eax=8300 fl=42
p32 | 0f 02 c1 | ecx=100 q[gdt+100]=0000840000000000 | eax=8400 fl=42
p32 | 0f 02 c1 | ecx=100 q[gdt+100]=0000850000000000 | eax=8500 fl=42
p32 | 0f 02 c1 | ecx=100 q[gdt+100]=0000860000000000 fl=42 | fl=2
p32 | 0f 02 c1 | ecx=100 q[gdt+100]=0000870000000000 fl=42 | fl=2
p32 | 0f 02 c1 | ecx=100 q[gdt+100]=0000880000000000 fl=42 | fl=2
p32 | 0f 02 c1 | ecx=100 q[gdt+100]=0000890000000000 | eax=8900 fl=42
p32 | 0f 02 c1 | ecx=100 q[gdt+100]=00008a0000000000 fl=42 | fl=2
p32 | 0f 02 c1 | ecx=100 q[gdt+100]=00008c0000000000 | eax=8c00 fl=42
p32 | 0f 02 c1 | ecx=100 q[gdt+100]=00008d0000000000 fl=42 | fl=2
p32 | 0f 02 c1 | ecx=100 q[gdt+100]=00008e0000000000 fl=42 | fl=2
p32 | 0f 02 c1 | ecx=100 q[gdt+100]=00008f0000000000 fl=42 | fl=2
l64 | 0f 02 c1 | ecx=28 | eax=8b00 fl=42
l64 | 0f 02 c1 | ecx=38 | eax=8200 fl=42
l64 | 0f 02 c1 | ecx=100 q[gdt+100]=0000810000000000 fl=42 | fl=2
l64 | 0f 02 c1 | ecx=100 q[gdt+100]=0000840000000000 fl=42 | fl=2
l64 | 0f 02 c1 | ecx=100 q[gdt+100]=0000850000000000 fl=42 | fl=2
l64 | 0f 02 c1 | ecx=100 q[gdt+100]=0000890000000000 | eax=8900 fl=42
l64 | 0f 02 c1 | ecx=100 q[gdt+100]=00008c0000000000 | eax=8c00 fl=42
l64 | 48 0f 02 c1 | ecx=58 rax=ffffffffffffffff | rax=af9b00 fl=42
p32 | 0f 02 05 00 90 00 00 | w[data]=8 | eax=cf9b00 fl=42
real | 0f 02 c1 | | #ud
# LSL EAX, ECX
p32 | 0f 03 c1 | ecx=8 | eax=ffffffff fl=42
p32 | 0f 03 c1 | ecx=18 | eax=ffff fl=42
p32 | 66 0f 03 c1 | ecx=8 eax=0 | eax=ffff fl=42
p32 | 0f 03 c1 | ecx=28 | eax=10f fl=42
p32 | 0f 03 c1 | ecx=38 | eax=7ff fl=42
p32 | 0f 03 c1 | ecx=100 q[gdt+100]=00c0930000000002 | eax=2fff fl=42
p32 | 0f 03 c1 | ecx=100 q[gdt+100]=00008c0000000000 fl=42 | fl=2
p32 | 0f 03 c1 | ecx=100 q[gdt+100]=0000850000000000 fl=42 | fl=2
p32 | 0f 03 c1 | ecx=100 q[gdt+100]=0000810000000005 | eax=5 fl=42
p32.3 | 0f 03 c1 | ecx=8 fl=42 | fl=2
l64 | 0f 03 c1 | ecx=100 q[gdt+100]=0000810000000005 fl=42 | fl=2
l64 | 48 0f 03 c1 | ecx=8 | rax=ffffffff fl=42
real | 0f 03 c1 | | #ud
# VERR, VERW
p32 | 0f 00 e1 | ecx=10 | fl=42
p32 | 0f 00 e1 | ecx=8 | fl=42
p32 | 0f 00 e1 | ecx=100 q[gdt+100]=00cf99000000ffff fl=42 | fl=2
p32 | 0f 00 e1 | ecx=28 fl=42 | fl=2
p32 | 0f 00 e1 | ecx=0 fl=42 | fl=2
p32 | 0f 00 e1 | ecx=13 fl=42 | fl=2
p32 | 0f 00 e1 | ecx=9b | fl=42
p32 | 0f 00 e1 | ecx=100 q[gdt+100]=00cf13000000ffff | fl=42
p32 | 0f 00 e9 | ecx=10 | fl=42
p32 | 0f 00 e9 | ecx=8 fl=42 | fl=2
p32 | 0f 00 e9 | ecx=100 q[gdt+100]=00cf91000000ffff fl=42 | fl=2
p32.3 | 0f 00 e9 | ecx=10 fl=42 | fl=2
p32.3 | 0f 00 e9 | ecx=53 | fl=42
real | 0f 00 e1 | | #ud
# ARPL ECX, EAX
p32 | 63 c1 | ecx=10 eax=3 | ecx=13 fl=42
p32 | 63 c1 | ecx=13 eax=2 fl=42 | fl=2
p32 | 63 05 00 90 00 00 | w[data]=ff00 eax=2 | w[data]=ff02 fl=42
real | 63 c1 | | #ud
";
