# Long mode with a program in ring 3 that calls its kernel by SYSCALL and by INT n and asks CPUID, between timer
# interrupts, page faults, #GP and INT3. The handlers mix what they see (CR2 among it) into `sum`, which is printed in
# hex at the end; exit status 17.
    .equ TICKS, 8

    .globl main
    .type main, @function
main:
    enter_long_mode
    gate_to 0, divide
    gate_to 3, breakpoint
    gate_to 6, undefined
    gate_to 13, protection
    gate_to 14, page
    gate_to 32, tick
    gate_to 0x80, call_by_interrupt
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

    start_timer $5
    enter_ring USER_CODE, USER_DATA, 0x202, $user

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
    call print_sum
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

    long_mode_support
