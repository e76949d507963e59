# A software interrupt, an exception and timer interrupts in every mode: protected 32-bit at levels 0 and 3, long at
# levels 0 and 3, compatibility at level 3, protected 16-bit, real, virtual-8086 with IOPL 3 and 0, and through a task
# gate. Counts what the handlers saw, four words a mode, and prints the modes in which all came; exit status 13.
    .set CURRENT, 0x6ff8            # address of the running mode's counts
    .set RESUME, 0x6ff4             # where int $0x41 leads to
    .set RESUME_SP, 0x6ff0
    .set COUNTS, 0x7000
    .set LOW, 0x8000                # where the 16-bit code is copied to

    .macro mode n
    movl $COUNTS + 16 * \n, CURRENT
    .endm

    .macro gate table, vector, handler, selector, type
    movl $\handler, %eax
    movw %ax, \table + \vector * 8
    movw $\selector, \table + \vector * 8 + 2
    movw $\type, \table + \vector * 8 + 4
    shrl $16, %eax
    movw %ax, \table + \vector * 8 + 6
    .endm

    .macro gate64 vector, handler
    movl $\handler, %eax
    movw %ax, idt64 + \vector * 16
    movw $0x28, idt64 + \vector * 16 + 2
    movw $0xee00, idt64 + \vector * 16 + 4
    shrl $16, %eax
    movw %ax, idt64 + \vector * 16 + 6
    .endm

    .macro base descriptor, address
    movl $\address, %eax
    movw %ax, \descriptor + 2
    shrl $16, %eax
    movb %al, \descriptor + 4
    movb %ah, \descriptor + 7
    .endm

# The program of each mode; the handlers step over the ud2.
    .macro three_ticks
1:  movl CURRENT, %eax
    cmpl $3, 8(%eax)
    jb 1b
    .endm

    .globl main
    .type main, @function
main:
    lgdt gdt_pointer
    ljmp $8, $1f
1:  movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $COUNTS, %edi
    movl $64, %ecx
    xorl %eax, %eax
    rep stosl
    movl $low_start, %esi
    movl $LOW, %edi
    movl $low_end - low_start, %ecx
    rep movsb
    gate idt32, 6, undefined32, 8, 0xee00
    gate idt32, 13, protection32, 8, 0xee00
    gate idt32, 0x20, timer32, 8, 0xee00
    gate idt32, 0x40, software32, 8, 0xee00
    gate idt32, 0x41, leave32, 8, 0xee00
    movl $0x00600000, idt32 + 0x42 * 8
    movl $0x0000e500, idt32 + 0x42 * 8 + 4
    gate64 6, undefined64
    gate64 0x20, timer64
    gate64 0x40, software64
    gate64 0x41, leave64
    gate idt16, 6, LOW + undefined16 - low_start, 0x18, 0x8600
    gate idt16, 0x20, LOW + timer16 - low_start, 0x18, 0x8600
    gate idt16, 0x40, LOW + software16 - low_start, 0x18, 0x8600
    movl $LOW + undefined16 - low_start, 6 * 4
    movl $LOW + timer16 - low_start, 0x20 * 4
    movl $LOW + software16 - low_start, 0x40 * 4
    base gdt + 0x48, tss32
    base gdt + 0x50, tss64
    base gdt + 0x60, tss_other
    lidt idt32_pointer
    movw $0x48, %ax
    ltr %ax

    movb $0x11, %al                 # the 8259 at vector 32, only line 0 let through
    outb %al, $0x20
    movb $32, %al
    outb %al, $0x21
    movb $4, %al
    outb %al, $0x21
    movb $1, %al
    outb %al, $0x21
    movb $0xfe, %al
    outb %al, $0x21
    movb $0x34, %al                 # the 8254: mode 2, 1193 counts
    outb %al, $0x43
    movb $0xa9, %al
    outb %al, $0x40
    movb $0x04, %al
    outb %al, $0x40

    mode 0                          # protected, 32 bits, level 0
    int $0x40
    ud2
    sti
    three_ticks
    cli

    mode 1                          # level 3
    movl $0x3b, %eax
    movl %eax, %ds
    movl %esp, RESUME_SP
    movl $2f, RESUME
    pushl $0x3b
    pushl $user_stack_top
    pushl $0x202
    pushl $0x33
    pushl $user32
    iretl
2:
    mode 2                          # a task of its own
    int $0x42
    int $0x42
    call long_modes
    call narrow_modes
    call vm86_modes
    jmp report
    .size main, . - main

user32:
    int $0x40
    ud2
    three_ticks
    int $0x41

task_entry:
    movl CURRENT, %eax
    incl (%eax)
    iretl
    jmp task_entry

    .macro count32 offset
    pushl %ds
    pushl %eax
    movl $0x10, %eax
    movl %eax, %ds
    movl CURRENT, %eax
    incl \offset(%eax)
    popl %eax
    popl %ds
    .endm
software32:
    count32 0
    iretl
undefined32:
    count32 4
    addl $2, (%esp)
    iretl
timer32:
    count32 8
    pushl %eax
    movb $0x20, %al
    outb %al, $0x20
    popl %eax
    iretl
protection32:                       # CLI in virtual-8086 mode: step over it, the first time
    count32 12
    movl $0x10, %eax
    movl %eax, %ds
    movl CURRENT, %eax
    cmpl $2, 12(%eax)
    je leave32
    addl $4, %esp
    incl (%esp)
    iretl
leave32:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl RESUME_SP, %esp
    jmp *RESUME

long_modes:
    movl $pdpt + 7, pml4
    movl $directory + 7, pdpt
    movl $directory, %edi
    movl $0x87, %eax
1:  movl %eax, (%edi)
    addl $8, %edi
    addl $0x200000, %eax
    cmpl $0x2000087, %eax
    jb 1b
    movl %cr4, %eax
    orl $0x20, %eax
    movl %eax, %cr4
    movl $pml4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0
    ljmp $0x28, $long64

    .code64
long64:
    lidt idt64_pointer
    movw $0x50, %ax
    ltr %ax
    mode 3                          # level 0
    int $0x40
    ud2
    sti
    three_ticks
    cli
    mode 4                          # level 3
    movl %esp, RESUME_SP
    movl $2f, RESUME
    pushq $0x3b
    pushq $user_stack_top
    pushq $0x202
    pushq $0x43
    pushq $user64
    iretq
2:  mode 5                          # compatibility mode, level 3
    movl $0x3b, %eax
    movl %eax, %ds
    movl $3f, RESUME
    pushq $0x3b
    pushq $user_stack_top
    pushq $0x202
    pushq $0x33
    pushq $user32
    iretq
3:  pushq $8
    pushq $leave_long
    lretq

user64:
    int $0x40
    ud2
    three_ticks
    int $0x41

    .macro count64 offset
    pushq %rax
    movl CURRENT, %eax
    incl \offset(%rax)
    popq %rax
    .endm
software64:
    count64 0
    iretq
undefined64:
    count64 4
    addq $2, (%rsp)
    iretq
timer64:
    count64 8
    pushq %rax
    movb $0x20, %al
    outb %al, $0x20
    popq %rax
    iretq
leave64:
    movl RESUME_SP, %esp
    movl RESUME, %eax
    jmp *%rax

    .code32
leave_long:
    movl $0x10, %eax
    movl %eax, %ss
    movl %eax, %ds
    movl %eax, %es
    movl %cr0, %eax
    andl $0x7fffffff, %eax
    movl %eax, %cr0
    movl $0xc0000080, %ecx
    rdmsr
    andl $0xfffffeff, %eax
    wrmsr
    movl %cr4, %eax
    andl $0xffffffdf, %eax
    movl %eax, %cr4
    movb $0x89, gdt + 0x48 + 5      # the task is busy since the first LTR
    movw $0x48, %ax
    ltr %ax
    lidt idt32_pointer
    ret

narrow_modes:
    movl %esp, RESUME_SP
    lidt idt16_pointer
    mode 6
    ljmp $0x18, $LOW + protected16 - low_start
narrow_done:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl RESUME_SP, %esp
    lidt idt32_pointer
    ret

    .code16
low_start:
protected16:
    movw $0x20, %ax
    movw %ax, %ds
    movw %ax, %ss
    movl $0x6e00, %esp
    int $0x40
    ud2
    sti
    three_ticks
    cli
    movl $COUNTS + 16 * 7, CURRENT
    movl %cr0, %eax
    andb $0xfe, %al
    movl %eax, %cr0
    ljmp $0, $LOW + real_mode - low_start
real_mode:
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %ss
    lidt LOW + real_pointer - low_start
    int $0x40
    ud2
    sti
    three_ticks
    cli
    lgdt LOW + low_gdt_pointer - low_start
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    ljmpl $8, $narrow_done

vm86_open:
    int $0x40
    ud2
    three_ticks
    int $0x41
vm86_closed:
    cli
    ud2
    three_ticks
    int $0x41

    .macro count16 offset
    pushl %eax
    movl CURRENT, %eax
    incl \offset(%eax)
    popl %eax
    .endm
software16:
    count16 0
    iretw
undefined16:
    count16 4
    pushw %bp
    movw %sp, %bp
    addw $2, 2(%bp)
    popw %bp
    iretw
timer16:
    count16 8
    pushw %ax
    movb $0x20, %al
    outb %al, $0x20
    popw %ax
    iretw
real_pointer:
    .word 0x3ff
    .long 0
low_gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt
low_end:

    .code32
    .macro enter_vm86 flags, entry
    movl %esp, RESUME_SP
    movl $2f, RESUME
    pushl $0                        # GS, FS, DS, ES
    pushl $0
    pushl $0
    pushl $0
    pushl $0                        # SS:ESP
    pushl $0x6c00
    pushl $\flags
    pushl $0                        # CS:EIP
    pushl $LOW + \entry - low_start
    iretl
2:
    .endm
vm86_modes:
    mode 8
    enter_vm86 0x23202, vm86_open
    mode 9
    enter_vm86 0x20202, vm86_closed
    ret

# Modes in which not all came are left out.
    .macro line n, software, undefined, protection, text
    cmpl $\software, COUNTS + 16 * \n
    jne 7f
    cmpl $\undefined, COUNTS + 16 * \n + 4
    jne 7f
    cmpl $\protection, COUNTS + 16 * \n + 12
    jne 7f
    print "\text"
7:
    .endm
report:
    line 0, 1, 1, 0, "protected 32-bit\n"
    line 1, 1, 1, 0, "protected 32-bit, level 3\n"
    line 2, 2, 0, 0, "task gate\n"
    line 3, 1, 1, 0, "long\n"
    line 4, 1, 1, 0, "long, level 3\n"
    line 5, 1, 1, 0, "compatibility\n"
    line 6, 1, 1, 0, "protected 16-bit\n"
    line 7, 1, 1, 0, "real\n"
    line 8, 1, 1, 0, "virtual-8086\n"
    line 9, 0, 1, 2, "virtual-8086, IOPL 0\n"
    exit 6

    .data
    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff        # 08: code, 32 bits
    .quad 0x00cf93000000ffff        # 10: data
    .quad 0x00009b000000ffff        # 18: code, 16 bits
    .quad 0x000093000000ffff        # 20: data, 16 bits
    .quad 0x00af9b000000ffff        # 28: code, 64 bits
    .quad 0x00cffb000000ffff        # 30: level 3: code, 32 bits
    .quad 0x00cff3000000ffff        # 38: data
    .quad 0x00affb000000ffff        # 40: code, 64 bits
    .quad 0x0000890000000067        # 48: TSS
    .quad 0x0000890000000067, 0     # 50: TSS of long mode
    .quad 0x0000890000000067        # 60: the other task
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt
    .balign 4
idt32_pointer:
    .word 0x43 * 8 - 1
    .long idt32
    .balign 4
idt16_pointer:
    .word 0x43 * 8 - 1
    .long idt16
    .balign 8
idt64_pointer:
    .word 0x43 * 16 - 1
    .quad idt64
    .balign 16
tss32:
    .long 0, inner_stack_top, 0x10
    .skip 0x67 - 12
    .byte 0
    .balign 16
tss64:
    .long 0
    .quad inner_stack_top
    .skip 0x67 - 12
    .byte 0
    .balign 16
tss_other:
    .skip 0x20
    .long task_entry, 2
    .skip 16
    .long task_stack_top, 0, 0, 0
    .long 0x10, 8, 0x10, 0x10, 0, 0, 0, 0

    .bss
    .balign 4096
pml4:
    .skip 4096
pdpt:
    .skip 4096
directory:
    .skip 4096
idt32:
    .skip 0x43 * 8
idt16:
    .skip 0x43 * 8
idt64:
    .skip 0x43 * 16
    .skip 4096
inner_stack_top:
    .skip 4096
user_stack_top:
    .skip 4096
task_stack_top:
