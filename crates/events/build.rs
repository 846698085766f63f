//! Generates Rust from `proto/` without `protoc`, once for the whole workspace.

use std::path::Path;

/// Messages that carry names and addresses: their `Debug` is written by hand (src/masking.rs), so that no log can print
/// what a derived one would.
const PERSONAL: [&str; 4] = [
    ".dunlin.events.v1.Invoice",
    ".dunlin.events.v1.Customer",
    ".dunlin.api.v1.InvoiceFact",
    ".dunlin.api.v1.CustomerFact",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new("../../proto");
    println!("cargo::rerun-if-changed={}", root.display());
    let files = ["invoice", "payment", "customer", "reminder"]
        .map(|name| format!("dunlin/events/v1/{name}.proto"))
        .into_iter()
        .chain(["ingest", "operations"].map(|name| format!("dunlin/api/v1/{name}.proto")));
    let descriptors = protox::compile(files, [root])?;

    // Reflection and the JSON view of dead letters read the descriptors at run time.
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), protox::prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure().skip_debug(PERSONAL).compile_fds(descriptors)?;
    Ok(())
}
