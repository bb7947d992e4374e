//! The `hardware` member of a result: the machine on which the run was made.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::members::{At, DATABASE_INTEGER, Raw, number, object, storable_text};
use crate::field_error::FieldErrors;

const WATTS_OR_GIGABYTES: RangeInclusive<f64> = 0.0..=1e9;

/// The machine on which a run was made. Every value may be unknown.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Hardware {
    /// Processor and memory.
    pub system: SystemHardware,
    /// Operating system and driver.
    pub software: SystemSoftware,
    /// The graphics card; `None` if the harness could not identify it.
    pub gpu: Option<GpuHardware>,
    /// The card's power limit, in watts.
    pub power_limit_w: Option<f64>,
}

/// Processor and memory: a row of `system_hardware`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SystemHardware {
    /// The processor's model name.
    pub cpu_model: Option<String>,
    /// Physical cores.
    pub cpu_cores: Option<i32>,
    /// Logical cores.
    pub cpu_threads: Option<i32>,
    /// Memory, in GB.
    pub ram_gb: Option<f64>,
}

/// Operating system and driver: a row of `system_software`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SystemSoftware {
    /// Name of the operating system, for example `Linux`.
    pub os_name: Option<String>,
    /// Version of the kernel or operating system.
    pub os_version: Option<String>,
    /// Version of the graphics driver.
    pub driver_version: Option<String>,
}

/// A graphics card: a row of `gpu_hardware`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GpuHardware {
    /// The card's model name; never empty.
    pub gpu_model: String,
    /// Graphics memory, in MB, rounded to the nearest integer.
    pub vram_mb: Option<i32>,
}

pub(super) fn read_hardware(hardware: Raw<'_>, errors: &mut FieldErrors) -> Hardware {
    #[derive(Deserialize)]
    struct Members<'a> {
        #[serde(borrow)]
        gpu_model: Raw<'a>,
        #[serde(borrow)]
        vram_mb: Raw<'a>,
        #[serde(borrow)]
        power_limit_w: Raw<'a>,
        #[serde(borrow)]
        cpu_model: Raw<'a>,
        #[serde(borrow)]
        cpu_cores: Raw<'a>,
        #[serde(borrow)]
        cpu_threads: Raw<'a>,
        #[serde(borrow)]
        ram_gb: Raw<'a>,
        #[serde(borrow)]
        os_name: Raw<'a>,
        #[serde(borrow)]
        os_version: Raw<'a>,
        #[serde(borrow)]
        driver_version: Raw<'a>,
    }
    let Some(hardware) = hardware else {
        return Hardware::default();
    };
    let Some(members) = object::<Members<'_>>(hardware.get(), "/hardware", errors) else {
        return Hardware::default();
    };
    let at = |name| At("/hardware", name);
    let mut name = |raw, at| storable_text(raw, at, errors).filter(|name| !name.is_empty());
    let gpu_model = name(members.gpu_model, at("gpu_model"));
    let cpu_model = name(members.cpu_model, at("cpu_model"));
    let software = SystemSoftware {
        os_name: name(members.os_name, at("os_name")),
        os_version: name(members.os_version, at("os_version")),
        driver_version: name(members.driver_version, at("driver_version")),
    };
    let mut integer = |raw, at| {
        let number = number(raw, at, DATABASE_INTEGER, errors);
        number.map(|number| number.round() as i32)
    };
    let vram_mb = integer(members.vram_mb, at("vram_mb"));
    let cpu_cores = integer(members.cpu_cores, at("cpu_cores"));
    let cpu_threads = integer(members.cpu_threads, at("cpu_threads"));
    let ram_gb = number(members.ram_gb, at("ram_gb"), WATTS_OR_GIGABYTES, errors);
    Hardware {
        system: SystemHardware { cpu_model, cpu_cores, cpu_threads, ram_gb },
        software,
        gpu: gpu_model.map(|gpu_model| GpuHardware { gpu_model, vram_mb }),
        power_limit_w: number(members.power_limit_w, at("power_limit_w"), WATTS_OR_GIGABYTES, errors),
    }
}
