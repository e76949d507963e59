use retrovisor::record::{console::*, emulated::*};
fn main() {
    env_logger_init();
    let a: Vec<String> = std::env::args().collect();
    let kernel = std::fs::read(&a[1]).unwrap();
    let initrd = a.get(2).map(|f| std::fs::read(f).unwrap());
    let plan = Plan { kernel: &kernel, kernel_name: a[1].clone(), initrd: initrd.as_deref(), initrd_name: a.get(2).cloned(),
        cmdline: std::env::var("CMDLINE").unwrap_or("console=ttyS0 earlyprintk=ttyS0".into()), ram_bytes: 256 << 20, protocol: None,
        ticks_max: std::env::var("TICKS").ok().map(|t| t.parse().unwrap()), guest_ns_max: None, rtc_epoch_s: 1_700_000_000, created_unix_s: 0, identity: [7; 16] };
    catch_signals().unwrap();
    let out = if std::env::var("RECORD").is_ok() {
        record(&plan, std::path::Path::new("/tmp/boot.rvr"), Box::new(Stdio::new().unwrap()), |_, _, _| {}).unwrap()
    } else { run_unrecorded(&plan, Box::new(Stdio::new().unwrap())).unwrap() };
    eprintln!("{out:?} {:.1} M/s", out.ticks as f64 / out.wall.as_secs_f64() / 1e6);
}
fn env_logger_init() {
    struct L; impl log::Log for L { fn enabled(&self,_:&log::Metadata)->bool{true} fn log(&self,r:&log::Record){eprintln!("[{}] {}",r.level(),r.args())} fn flush(&self){} }
    static X: L = L; log::set_logger(&X).unwrap(); log::set_max_level(log::LevelFilter::Debug);
}
