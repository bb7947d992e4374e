//! What this machine can do: its GPU, and the names it goes by.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// The quantizations that llama.cpp serves, by the names that the queue's database has. What a runner says it
/// serves unless `--quantizations` narrows it.
pub const QUANTIZATIONS: [&str; 27] = [
    "fp32", "fp16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_0", "q5_1", "q4_k_m", "q4_k_s", "q4_0",
    "q4_1", "q3_k_l", "q3_k_m", "q3_k_s", "q2_k", "iq4_xs", "iq4_nl", "iq3_m", "iq3_s", "iq3_xxs", "iq2_m",
    "iq2_xs", "iq2_xxs", "iq1_m", "iq1_s",
];

/// A GPU, and what told of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Gpu {
    /// Its name, where it is known.
    pub name: Option<String>,
    /// Its memory, in GB.
    pub vram_gb: f64,
    /// The tool or folder that said so.
    pub found_by: &'static str,
}

/// Finds the GPU with the most memory: the harness runs on one GPU.
pub fn find_gpu() -> Option<Gpu> {
    find_nvidia().or_else(find_rocm).or_else(|| find_in_sys(Path::new("/sys/class/drm")))
}

fn find_nvidia() -> Option<Gpu> {
    let arguments = ["--query-gpu=name,memory.total", "--format=csv,noheader,nounits"];
    read_nvidia_smi(&output("nvidia-smi", &arguments)?)
}

fn find_rocm() -> Option<Gpu> {
    read_rocm_smi(&output("rocm-smi", &["--showproductname", "--showmeminfo", "vram", "--json"])?)
}

/// Lines of `NVIDIA GeForce RTX 4090, 24564`: MiB.
fn read_nvidia_smi(text: &str) -> Option<Gpu> {
    let gpu = |line: &str| {
        let (name, mib) = line.rsplit_once(',')?;
        let mib: f64 = mib.trim().parse().ok()?;
        Some(Gpu {
            name: Some(name.trim().to_owned()),
            vram_gb: nominal_gb(mib * 1024.0 * 1024.0),
            found_by: "nvidia-smi",
        })
    };
    largest(text.lines().filter_map(gpu))
}

/// `{"card0": {"VRAM Total Memory (B)": "25753026560", "Card Series": "…"}}`.
fn read_rocm_smi(text: &str) -> Option<Gpu> {
    let cards: Value = serde_json::from_str(text).ok()?;
    let gpu = |card: &Value| {
        let bytes: f64 = card["VRAM Total Memory (B)"].as_str()?.parse().ok()?;
        let name = ["Card Series", "Card series", "Card Model", "Card model"];
        let name = name.iter().find_map(|field| card[*field].as_str()).map(str::to_owned);
        Some(Gpu { name, vram_gb: nominal_gb(bytes), found_by: "rocm-smi" })
    };
    largest(cards.as_object()?.values().filter_map(gpu))
}

/// The files that the amdgpu driver has, in bytes.
fn find_in_sys(folder: &Path) -> Option<Gpu> {
    let gpu = |entry: std::fs::DirEntry| {
        let device = entry.path().join("device");
        let read = |name| std::fs::read_to_string(device.join(name)).ok();
        let bytes: f64 = read("mem_info_vram_total")?.trim().parse().ok()?;
        let name = read("product_name").map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        Some(Gpu { name, vram_gb: nominal_gb(bytes), found_by: "/sys/class/drm" })
    };
    largest(std::fs::read_dir(folder).ok()?.filter_map(|entry| gpu(entry.ok()?)))
}

fn largest(gpus: impl Iterator<Item = Gpu>) -> Option<Gpu> {
    gpus.max_by(|one, other| one.vram_gb.total_cmp(&other.vram_gb))
}

/// The size on the box: a card of 24 GB reports 24,564 MiB, and a job that asks for 24 GB is meant for it. A
/// size that is not within 2% of a whole number is rounded down to a tenth.
fn nominal_gb(bytes: f64) -> f64 {
    let gib = bytes / (1024.0 * 1024.0 * 1024.0);
    let whole = gib.round();
    if (gib - whole).abs() <= 0.02 * whole { whole } else { (gib * 10.0).floor() / 10.0 }
}

/// What a program prints, if it is installed and succeeds.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output();
    let output = output.ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

/// The machine's name on the network.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The name of the user we run as.
pub fn user_name() -> Option<String> {
    let id = rustix::process::geteuid().as_raw().to_string();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == id).then(|| name.to_owned())
    });
    named.or_else(|| std::env::var("USER").ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nvidia_smi_names_the_largest_card() {
        let text = "NVIDIA GeForce RTX 3060, 12288\nNVIDIA GeForce RTX 4090, 24564\n";
        let expected =
            Gpu { name: Some("NVIDIA GeForce RTX 4090".into()), vram_gb: 24.0, found_by: "nvidia-smi" };
        assert_eq!(read_nvidia_smi(text), Some(expected));
        assert_eq!(read_nvidia_smi("No devices were found\n"), None);
    }

    #[test]
    fn rocm_smi_says_bytes() {
        let text = r#"{"card0": {"VRAM Total Memory (B)": "25753026560", "Card Series": "Radeon RX 7900 XTX"},
                       "system": {"Driver version": "6.7"}}"#;
        let gpu = read_rocm_smi(text).unwrap();
        assert_eq!((gpu.name.as_deref(), gpu.vram_gb), (Some("Radeon RX 7900 XTX"), 24.0));
    }

    #[test]
    fn the_driver_says_bytes_too() {
        let folder = std::env::temp_dir().join(format!("bakeoff-drm-{}", std::process::id()));
        let device = folder.join("card1/device");
        std::fs::create_dir_all(&device).unwrap();
        std::fs::write(device.join("mem_info_vram_total"), "17163091968\n").unwrap();
        assert_eq!(find_in_sys(&folder).unwrap().vram_gb, 16.0);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn odd_sizes_are_rounded_down() {
        let gib = 1024.0 * 1024.0 * 1024.0;
        assert_eq!([0.5, 15.98, 15.3, 95.6].map(|size| nominal_gb(size * gib)), [0.5, 16.0, 15.3, 96.0]);
    }
}
