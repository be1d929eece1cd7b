//! Lists the pages of the error codes, so that adding a page is adding a file.

use std::fmt::Write as _;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=src/codes");
    let folder = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("src/codes");
    let mut pages: Vec<PathBuf> = std::fs::read_dir(folder)?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    pages.retain(|path| path.extension().is_some_and(|ending| ending == "md"));
    pages.sort();
    let mut list = String::from("&[\n");
    for page in &pages {
        let code =
            page.file_stem().and_then(|stem| stem.to_str()).ok_or("a page has an odd name")?;
        writeln!(list, "    ({code:?}, include_str!({page:?})),")?;
    }
    list.push_str("]\n");
    std::fs::write(PathBuf::from(std::env::var("OUT_DIR")?).join("pages.rs"), list)?;
    Ok(())
}
