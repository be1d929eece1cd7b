//! Compiles the contracts with protox, so that no protoc is needed on the machine.

use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir("pgconvoy/v1")?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|path| path.extension().is_some_and(|ending| ending == "proto"));
    files.sort();
    println!("cargo:rerun-if-changed=pgconvoy/v1");
    let descriptors = protox::compile(&files, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("descriptors.bin");
    std::fs::write(out, descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        // These carry passwords and keys; src/redacted.rs prints them without.
        .skip_debug([
            "pgconvoy.v1.CreateTaskRequest",
            "pgconvoy.v1.InstallKeyRequest",
            "pgconvoy.v1.Lease",
            "pgconvoy.v1.ResumeTaskRequest",
        ])
        .compile_fds(descriptors)?;
    Ok(())
}
