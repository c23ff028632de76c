//! Writes pickles and files as `torch.save` does, in the few forms that the tests need.

use std::collections::BTreeMap;
use std::io::Write as _;

/// Instructions of a pickle.
pub type Code = Vec<u8>;

pub fn text(text: &str) -> Code {
    [
        b"X",
        &(text.len() as u32).to_le_bytes()[..],
        text.as_bytes(),
    ]
    .concat()
}

pub fn int(int: i32) -> Code {
    [b"J", &int.to_le_bytes()[..]].concat()
}

pub fn global(module: &str, name: &str) -> Code {
    format!("c{module}\n{name}\n").into_bytes()
}

pub fn tuple(items: &[Code]) -> Code {
    [b"(", &items.concat()[..], b"t"].concat()
}

pub fn list(items: &[Code]) -> Code {
    [b"](", &items.concat()[..], b"e"].concat()
}

pub fn dict(entries: &[(&str, Code)]) -> Code {
    let entries = entries
        .iter()
        .map(|(key, value)| [text(key), value.clone()].concat());
    [b"}(", &entries.collect::<Vec<_>>().concat()[..], b"u"].concat()
}

pub fn call(function: Code, arguments: &[Code]) -> Code {
    [function, tuple(arguments), b"R".to_vec()].concat()
}

pub fn ints(ints: &[i32]) -> Code {
    tuple(&ints.iter().map(|&i| int(i)).collect::<Vec<_>>())
}

pub fn view(
    class: &str,
    key: &str,
    elements: i32,
    shape: &[i32],
    strides: &[i32],
    offset: i32,
) -> Code {
    let storage = [
        text("storage"),
        global("torch", class),
        text(key),
        text("cpu"),
        int(elements),
    ];
    let storage = [tuple(&storage), b"Q".to_vec()].concat();
    let hooks = call(global("collections", "OrderedDict"), &[]);
    let arguments = [
        storage,
        int(offset),
        ints(shape),
        ints(strides),
        vec![0x89],
        hooks,
    ];
    call(global("torch._utils", "_rebuild_tensor_v2"), &arguments)
}

/// A float32 tensor that has all of its storage.
pub fn tensor(key: &str, shape: &[i32]) -> Code {
    let mut strides = vec![1; shape.len()];
    for dimension in (1..shape.len()).rev() {
        strides[dimension - 1] = strides[dimension] * shape[dimension];
    }
    view(
        "FloatStorage",
        key,
        shape.iter().product(),
        shape,
        &strides,
        0,
    )
}

pub fn pickle(code: &[u8]) -> Vec<u8> {
    [&[0x80, 2], code, b"."].concat()
}

/// The zip format; storages hold float32.
pub fn zip(code: &[u8], storages: &BTreeMap<String, Vec<f32>>) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut add = |name: &str, bytes: &[u8]| {
        archive
            .start_file(format!("archive/{name}"), stored)
            .unwrap();
        archive.write_all(bytes).unwrap();
    };
    add("data.pkl", &pickle(code));
    add("byteorder", b"little");
    for (key, values) in storages {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        add(&format!("data/{key}"), &bytes);
    }
    archive.finish().unwrap().into_inner()
}
