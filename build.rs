//! Builds the demo kernel (src/demo/kernel), which is a program of its own: without the standard library, linked
//! to a fixed address, with all its debug information. It takes rustc and the linker that cargo uses anyway.

use std::env;
use std::path::PathBuf;
use std::process::Command;

/// The name that the kernel's sources have in its debug information, in place of this machine's path.
const SOURCE_PREFIX: &str = "/retrovisor/demo-kernel";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/demo/kernel");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let source = root.join("src/demo/kernel");
    let mut rustc = Command::new(env::var_os("RUSTC").expect("cargo sets it"));
    rustc.current_dir(&source).args([
        "main.rs",
        "--crate-name",
        "demo_kernel",
        "--edition",
        "2024",
    ]);
    rustc
        .args([
            "--crate-type",
            "bin",
            "--target",
            "x86_64-unknown-linux-gnu",
            "-o",
        ])
        .arg(out.join("demo-kernel"));
    rustc
        .arg("--remap-path-prefix")
        .arg(format!("{}={SOURCE_PREFIX}", source.display()));
    for option in [
        "panic=abort",
        "relocation-model=static",
        "no-redzone=yes",
        "force-frame-pointers=yes",
        "force-unwind-tables=yes",
        // Not optimised, so that GDB can show every variable.
        "opt-level=0",
        "debug-assertions=off",
        "codegen-units=1",
        "debuginfo=2",
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
    // What cargo hands down for the main crate is not for the kernel.
    rustc
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    let status = rustc
        .status()
        .unwrap_or_else(|e| panic!("cannot start rustc for the demo kernel: {e}"));
    assert!(
        status.success(),
        "the demo kernel does not build (it needs the target x86_64-unknown-linux-gnu)"
    );
}
