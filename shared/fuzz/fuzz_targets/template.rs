//! The reader of `template.yaml`.

#![no_main]

use bakeoff_local::api_gateway::template::Template;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = Template::parse(text);
});
