# Long mode with a program in ring 3 that calls its kernel by SYSCALL and by INT n and asks CPUID, between timer
# interrupts, page faults, #GP and INT3. The handlers mix what they see (CR2 among it) into `sum`, which is printed in
# hex at the end; exit status 17.
    .equ KERNEL_CODE, 0x10          # as Linux has them
    .equ KERNEL_DATA, 0x18
    .equ USER_DATA, 0x2b
    .equ USER_CODE, 0x33
    .equ TASK, 0x40
    .equ DEMAND, 0x800000           # 8 to 10 MiB: pages of 4 KiB that are not there
    .equ TICKS, 8

    .globl main
    .type main, @function
main:
    movl $pdpt + 7, pml4
    movl $pd + 7, pdpt
    movl $0, %ecx                   # 16 MiB by pages of 2 MiB, for both rings
1:  movl %ecx, %eax
    shll $21, %eax
    orl $0x87, %eax
    movl %eax, pd(, %ecx, 8)
    incl %ecx
    cmpl $8, %ecx
    jb 1b
    movl $demand_table + 7, pd + 8 * 4
    movl $0x20, %eax                # PAE
    orl $0x600, %eax                # OSFXSR, OSXMMEXCPT
    movl %eax, %cr4
    movl $pml4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx          # EFER: long mode
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80010022, %eax           # PG, WP, NE, MP
    andl $~0xc, %eax
    movl %eax, %cr0
    lgdt gdt_pointer
    ljmp $KERNEL_CODE, $long

    .code64
long:
    movl $KERNEL_DATA, %eax
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    movl $kernel_stack, %esp
    fninit
    movl $tss, %eax                 # the task's descriptor has a base of 64 bits
    movw %ax, gdt + TASK + 2
    shrl $16, %eax
    movb %al, gdt + TASK + 4
    movb %ah, gdt + TASK + 7
    movl $kernel_stack, tss + 4
    movl $TASK, %eax
    ltr %ax

    movl $0, %edi
    movl $divide, %esi
    call gate
    movl $6, %edi
    movl $undefined, %esi
    call gate
    movl $14, %edi
    movl $page, %esi
    call gate
    movl $32, %edi
    movl $tick, %esi
    call gate
    movl $0x80, %edi
    movl $call_by_interrupt, %esi
    call gate
    movl $3, %edi
    movl $breakpoint, %esi
    call gate
    movl $13, %edi
    movl $protection, %esi
    call gate
    lidt idt_pointer
    movl $0xc0000080, %ecx          # EFER: SYSCALL
    rdmsr
    orl $1, %eax
    wrmsr
    movl $0xc0000081, %ecx          # STAR
    xorl %eax, %eax
    movl $0x00230010, %edx
    wrmsr
    movl $0xc0000082, %ecx          # LSTAR
    movl $call_by_syscall, %eax
    xorl %edx, %edx
    wrmsr
    movl $0xc0000084, %ecx          # FMASK: TF, IF, DF
    movl $0x700, %eax
    wrmsr

    movb $0x11, %al
    outb %al, $0x20
    movb $32, %al
    outb %al, $0x21
    movb $4, %al
    outb %al, $0x21
    movb $1, %al
    outb %al, $0x21
    movb $0xfe, %al
    outb %al, $0x21
    movb $0x34, %al                 # the 8254: mode 2, 5 counts
    outb %al, $0x43
    movb $5, %al
    outb %al, $0x40
    xorl %eax, %eax
    outb %al, $0x40

    pushq $USER_DATA
    pushq $user_stack
    pushq $0x202
    pushq $USER_CODE
    pushq $user
    iretq

gate:                               # vector EDI to ESI; from ring 3 as well
    shll $4, %edi
    movw %si, idt(%rdi)
    movw $KERNEL_CODE, idt + 2(%rdi)
    movw $0xee00, idt + 4(%rdi)
    shrl $16, %esi
    movw %si, idt + 6(%rdi)
    ret

tick:
    pushq %rax
    movl counter, %eax
    mix
    incl ticks
    cmpl $TICKS, ticks
    jne 1f
    movb $0x34, %al                 # the rest with an interrupt now and then: 100 counts
    outb %al, $0x43
    movb $100, %al
    outb %al, $0x40
    xorb %al, %al
    outb %al, $0x40
1:  movb $0x20, %al
    outb %al, $0x20
    popq %rax
    iretq
divide:
    addq $2, (%rsp)
    movl $0xd1, %eax
    mix
    iretq
undefined:                          # also the system call: not every KVM delivers INT or SYSCALL of ring 3
    addq $2, (%rsp)
    cmpl $1, %edi
    je finish
    pushq %rax
    movl %ebx, %eax
    mix
    popq %rax
    iretq
page:
    pushq %rax
    pushq %rcx
    movq %cr2, %rax
    mix
    movq %rax, %rcx
    subq $DEMAND, %rcx
    shrq $12, %rcx
    addl $0x400000, %eax            # backed 4 MiB further up
    andq $-4096, %rax
    orq $7, %rax
    movq %rax, demand_table(, %rcx, 8)
    popq %rcx
    popq %rax
    addq $8, %rsp
    iretq
breakpoint:
    pushq %rax
    movl $0xb9, %eax
    mix
    popq %rax
    iretq
protection:                         # HLT
    pushq %rax
    movl 8(%rsp), %eax
    mix
    popq %rax
    addq $8, %rsp
    incq (%rsp)
    iretq
call_by_interrupt:
    movl %edi, %eax
    mix
    leal 5(%rdi), %eax
    iretq
call_by_syscall:                    # without a stack, RCX and R11 with the rest
    movl %edi, %eax
    mix
    movl %ecx, %eax
    mix
    movl %r11d, %eax
    andl $0x300, %eax
    mix
    movq %cr2, %rax
    mix
    leal 3(%rdi), %eax
    sysretq
finish:
    movl $8, %ecx
2:  roll $4, sum
    movl sum, %eax
    andl $15, %eax
    movb digits(%rax), %bl
    movl $0x3fd, %edx
3:  inb %dx, %al
    testb $0x20, %al
    jz 3b
    movb %bl, %al
    movl $0x3f8, %edx
    outb %al, %dx
    loop 2b
    movl $8, %eax
    outl %eax, $0xf4
4:  cli
    hlt
    jmp 4b

    .globl user
user:
    incl counter                    # every register repeats
    cmpl $TICKS, ticks
    jb user

    movl $100, %ebx                 # SYSCALL, with interrupts between
1:  movl %ebx, %edi
    movl $1, %edx
    syscall
    addl %eax, counter
    movl $200, %ecx
2:  addl %ecx, counter
    loop 2b
    decl %ebx
    jnz 1b

    movl $100, %ebx                 # INT n
1:  movl %ebx, %edi
    int $0x80
    addl %eax, counter
    decl %ebx
    jnz 1b

    movl $50, %ebx                  # the same page faults as ever, between them
1:  movl %ebx, %esi
    shll $12, %esi
    addl $DEMAND, %esi
    movl %ebx, (%rsi)
    movl (%rsi), %edi
    syscall
    int $0x80
    int3
    addl %eax, counter
    decl %ebx
    jnz 1b

    movl $20, %ebp                  # CPUID: what is hidden stays hidden
1:  movl $1, %eax
    cpuid
    movl %ecx, %edi
    syscall
    movl $0x80000001, %eax
    cpuid
    movl %edx, %edi
    syscall
    hlt                             # and a real #GP
    decl %ebp
    jnz 1b

    movl counter, %edi
    syscall
    movl $1, %edi                   # the end
    ud2
    ud2

    .section .rodata
digits:
    .ascii "0123456789abcdef"

    .data
    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00cffb000000ffff
    .quad 0x00cff3000000ffff
    .quad 0x00affb000000ffff
    .quad 0
    .quad 0x0000890000000067
    .quad 0
gdt_pointer:
    .word 79
    .long gdt
    .balign 8
idt_pointer:
    .word 129 * 16 - 1
    .quad idt

    .bss
    .balign 4096
pml4:
    .skip 4096
pdpt:
    .skip 4096
pd:
    .skip 4096
demand_table:
    .skip 4096
idt:
    .skip 4096
tss:
    .skip 128
    .skip 4096
kernel_stack:
    .skip 4096
user_stack:
    .skip 64
    .globl ticks, counter, sum
ticks:
    .skip 8
counter:
    .skip 8
sum:
    .skip 8
