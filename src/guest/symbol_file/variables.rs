//! Variables whose types BTF does not tell (it knows per-CPU ones only), as the kernel's headers declare them.
//!
//! An entry has an effect only where the kernel has a symbol and a type of these names.

/// Name of the variable, and the structure that it is.
pub const STRUCTURES: &[(&str, &str)] = &[
    ("init_task", "task_struct"),
    ("init_mm", "mm_struct"),
    ("init_nsproxy", "nsproxy"),
    ("init_pid_ns", "pid_namespace"),
    ("init_uts_ns", "uts_namespace"),
    ("init_net", "net"),
    ("init_cred", "cred"),
    ("init_fs", "fs_struct"),
    ("init_files", "files_struct"),
    ("init_signals", "signal_struct"),
    ("modules", "list_head"),
    ("slab_caches", "list_head"),
    ("super_blocks", "list_head"),
    ("vmap_area_list", "list_head"),
    ("boot_cpu_data", "cpuinfo_x86"),
    ("boot_params", "boot_params"),
    ("iomem_resource", "resource"),
    ("ioport_resource", "resource"),
    ("root_task_group", "task_group"),
    ("contig_page_data", "pglist_data"),
    ("memblock", "memblock"),
];

/// Pointers to structures.
pub const POINTERS: &[(&str, &str)] = &[
    ("console_drivers", "console"),
    ("system_wq", "workqueue_struct"),
];
