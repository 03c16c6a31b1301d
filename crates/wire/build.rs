//! Generates the messages from `proto/` with protox: no protoc is needed.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let files = ["common.proto", "kv.proto", "peer.proto", "leaders.proto", "transaction.proto", "coordination.proto"];
    let descriptors = protox::compile(files, [&root])?;
    let out = std::env::var("OUT_DIR")?;
    let mut encoded = Vec::new();
    prost_encode(&descriptors, &mut encoded)?;
    std::fs::write(Path::new(&out).join("descriptors.bin"), encoded)?;
    tonic_prost_build::configure().bytes(".").emit_rerun_if_changed(false).compile_fds(descriptors)?;
    Ok(())
}

fn prost_encode(set: &impl prost::Message, out: &mut Vec<u8>) -> Result<(), prost::EncodeError> {
    set.encode(out)
}
