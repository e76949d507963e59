//! Builds what runs in a guest and is embedded in the program: the demo kernel (src/demo/kernel) with all its debug
//! information, and the BIOS for kernels that call one (src/machine/boot/bios). Both are programs of their own,
//! without the standard library and linked to fixed addresses. They take rustc and the linker that cargo uses anyway.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The name that the kernel's sources have in its debug information, in place of this machine's path.
const SOURCE_PREFIX: &str = "/retrovisor/demo-kernel";

/// The target that is always there where this builds: the host's own. Nothing of its operating system is used.
const TARGET: &str = "x86_64-unknown-linux-gnu";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));

    let kernel = root.join("src/demo/kernel");
    let remapped = format!("--remap-path-prefix={}={SOURCE_PREFIX}", kernel.display());
    // Not optimised, so that GDB can show every variable.
    build(
        &kernel,
        "demo_kernel",
        &out.join("demo-kernel"),
        &[&remapped, "-Copt-level=0", "-Cdebuginfo=2"],
    );

    let bios = root.join("src/machine/boot/bios");
    build(
        &bios,
        "bios",
        &out.join("bios"),
        &[
            "-Copt-level=1",
            "-Clink-arg=-Wl,--oformat=binary",
            "-Clink-arg=-Wl,--no-eh-frame-hdr",
        ],
    );
}

/// Builds `main.rs` of a directory, linked by its `link.ld`.
fn build(source: &Path, name: &str, output: &Path, options: &[&str]) {
    println!("cargo::rerun-if-changed={}", source.display());
    let mut rustc = Command::new(env::var_os("RUSTC").expect("cargo sets it"));
    rustc.current_dir(source).args([
        "main.rs",
        "--edition=2024",
        "--crate-type=bin",
        "--target",
        TARGET,
    ]);
    rustc
        .args(["--crate-name", name, "-o"])
        .arg(output)
        .args(options);
    for option in [
        "panic=abort",
        "relocation-model=static",
        "no-redzone=yes",
        "force-frame-pointers=yes",
        "force-unwind-tables=yes",
        "debug-assertions=off",
        "codegen-units=1",
        "strip=none",
        "link-arg=-nostdlib",
        "link-arg=-static",
        "link-arg=-no-pie",
        "link-arg=-Wl,--build-id=none",
        "link-arg=-Wl,-z,max-page-size=4096",
        "link-arg=-Wl,-z,noexecstack",
    ] {
        rustc.args(["-C", option]);
    }
    rustc.arg("-C").arg(format!(
        "link-arg=-Wl,-T,{}",
        source.join("link.ld").display()
    ));
    let status = rustc
        .status()
        .unwrap_or_else(|e| panic!("cannot start rustc for {name}: {e}"));
    assert!(
        status.success(),
        "{name} does not build (it needs rustc's target {TARGET})"
    );
}
