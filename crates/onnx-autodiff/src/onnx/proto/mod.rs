//! The wire format of ONNX: `onnx.proto` is ours, `onnx.rs` is generated from it and compared by
//! the test below. Byte fields are `Bytes`: decoding from one `Bytes` shares its memory. To
//! regenerate: `EXPLAIND_WRITE_PROTO=1 cargo test proto`.

#[allow(clippy::all, missing_docs)]
#[rustfmt::skip]
mod onnx;

pub use onnx::*;

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn the_checked_in_types_are_those_of_the_schema() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/onnx/proto");
        let out = tempfile::tempdir().unwrap();
        let schema = protox::compile([folder.join("onnx.proto")], [&folder]).unwrap();
        prost_build::Config::new()
            .bytes(["."])
            .out_dir(out.path())
            .compile_fds(schema)
            .unwrap();
        let generated = std::fs::read_to_string(out.path().join("onnx.rs")).unwrap();
        if std::env::var_os("EXPLAIND_WRITE_PROTO").is_some() {
            std::fs::write(folder.join("onnx.rs"), &generated).unwrap();
        }
        let checked_in = std::fs::read_to_string(folder.join("onnx.rs")).unwrap();
        assert!(
            generated == checked_in,
            "run EXPLAIND_WRITE_PROTO=1 cargo test proto"
        );
    }
}
