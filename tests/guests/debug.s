# A debugger inside the guest: breakpoints in the debug registers and single steps, counted by their handler, with
# random numbers in between. Exit status 11 if the counts are right.
    .globl main
    .type main, @function
main:
    lgdt gdt_pointer
    ljmp $8, $1f
1:  movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $debug_exception, %eax
    movw %ax, idt + 8
    movw $8, idt + 8 + 2
    movw $0x8e00, idt + 8 + 4
    shrl $16, %eax
    movw %ax, idt + 8 + 6
    lidt idt_pointer

    movl $visited, %eax             # an instruction
    movl %eax, %dr0
    movl $changed, %eax             # 4 bytes, written
    movl %eax, %dr1
    movl $buffer + 40, %eax         # a byte, written
    movl %eax, %dr2
    movl $0x01d00015, %eax
    movl %eax, %dr7

    movl $1000, %ecx
2:  call visited
    incl changed
    rdrand %eax
    jnc wrong
    xorl %eax, mixed
    loop 2b

    movl $buffer, %edi
    movl $64, %ecx
    rep stosb

    pushfl
    orl $0x100, (%esp)
    popfl
    .rept 10
    nop
    .endr
    pushfl
    andl $~0x100, (%esp)
    popfl

    cmpl $1000, visits
    jne wrong
    cmpl $1000, changes
    jne wrong
    cmpl $1, repetitions
    jne wrong
    cmpl $13, steps
    jne wrong
    print "1000 visits, 1000 changes, 13 steps\n"
    exit 5
wrong:
    exit 6
    .size main, . - main

    .globl visited
    .type visited, @function
visited:
    nop
    ret
    .size visited, . - visited

    .globl debug_exception
    .type debug_exception, @function
debug_exception:
    pushl %eax
    movl %dr6, %eax
    testl $1, %eax
    jz 1f
    incl visits
    orl $0x10000, 12(%esp)          # RF: not again
1:  testl $2, %eax
    jz 1f
    incl changes
1:  testl $4, %eax
    jz 1f
    testl $0x10000, 12(%esp)        # in the middle of a repetition RF is set
    jz 1f
    incl repetitions
1:  testl $0x4000, %eax
    jz 1f
    incl steps
1:  xorl %eax, %eax
    movl %eax, %dr6
    popl %eax
    iretl
    .size debug_exception, . - debug_exception

    .data
    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00cf93000000ffff
gdt_pointer:
    .word 23
    .long gdt
    .balign 4
idt_pointer:
    .word 2 * 8 - 1
    .long idt

    .bss
    .balign 8
idt:
    .skip 2 * 8
buffer:
    .skip 64
    .globl changed
    .type changed, @object
    .size changed, 4
changed:
    .skip 4
mixed:
    .skip 4
visits:
    .skip 4
changes:
    .skip 4
repetitions:
    .skip 4
steps:
    .skip 4
