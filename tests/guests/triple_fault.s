# Makes a fault that nothing can handle: the processor gives up and the machine resets.
    .globl main
    .type main, @function
main:
    print "going down\n"
    lidt no_table
    .globl the_fault
the_fault:
    int3
    exit 3
    .size main, . - main

    .data
    .balign 8
no_table:
    .word 0
    .long 0
