//! Variables whose types BTF does not tell (it knows per-CPU ones only), as the kernel's headers declare them: what
//! people look at most, and what the kernel's own scripts for GDB need.
//!
//! An entry has an effect only where the kernel has a symbol and a type of these names.

/// How a variable is made of its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// It is one.
    Plain,
    /// It points to one.
    Pointer,
    /// It is an array of them, with a length that is not told.
    Array,
}
use Shape::{Array, Plain, Pointer};

/// Name of the variable, how it is made, and of which structure or number.
pub const VARIABLES: &[(&str, Shape, &str)] = &[
    ("init_task", Plain, "task_struct"),
    ("init_mm", Plain, "mm_struct"),
    ("init_nsproxy", Plain, "nsproxy"),
    ("init_pid_ns", Plain, "pid_namespace"),
    ("init_uts_ns", Plain, "uts_namespace"),
    ("init_net", Plain, "net"),
    ("init_cred", Plain, "cred"),
    ("init_fs", Plain, "fs_struct"),
    ("init_files", Plain, "files_struct"),
    ("init_signals", Plain, "signal_struct"),
    ("modules", Plain, "list_head"),
    ("slab_caches", Plain, "list_head"),
    ("super_blocks", Plain, "list_head"),
    ("vmap_area_list", Plain, "list_head"),
    ("boot_cpu_data", Plain, "cpuinfo_x86"),
    ("boot_params", Plain, "boot_params"),
    ("iomem_resource", Plain, "resource"),
    ("ioport_resource", Plain, "resource"),
    ("root_task_group", Plain, "task_group"),
    ("contig_page_data", Plain, "pglist_data"),
    ("memblock", Plain, "memblock"),
    ("__cpu_active_mask", Plain, "cpumask"),
    ("__cpu_online_mask", Plain, "cpumask"),
    ("__cpu_possible_mask", Plain, "cpumask"),
    ("__cpu_present_mask", Plain, "cpumask"),
    ("platform_bus", Plain, "device"),
    ("hrtimer_resolution", Plain, "unsigned int"),
    ("nr_cpu_ids", Plain, "unsigned int"),
    ("jiffies", Plain, "long unsigned int"),
    ("jiffies_64", Plain, "long long unsigned int"),
    ("console_drivers", Pointer, "console"),
    ("system_wq", Pointer, "workqueue_struct"),
    ("bus_kset", Pointer, "kset"),
    ("class_kset", Pointer, "kset"),
    ("prb", Pointer, "printk_ringbuffer"),
    ("saved_command_line", Pointer, "char"),
    ("linux_banner", Array, "char"),
    ("__per_cpu_offset", Array, "long unsigned int"),
];
