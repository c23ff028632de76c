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
    zip_in("archive", code, storages)
}

/// The same with another name of the folder, which is the file's in newer versions of PyTorch.
pub fn zip_in(folder: &str, code: &[u8], storages: &BTreeMap<String, Vec<f32>>) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut add = |name: &str, bytes: &[u8]| {
        archive
            .start_file(format!("{folder}/{name}"), stored)
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

/// The archive with the zip64 records before its end, which PyTorch always writes.
pub fn with_zip64_records(mut archive: Vec<u8>) -> Vec<u8> {
    let end = archive.split_off(archive.len() - 22);
    assert_eq!(&end[..4], b"PK\x05\x06");
    let number = |at: usize, length: usize| {
        let mut bytes = [0; 8];
        bytes[..length].copy_from_slice(&end[at..at + length]);
        bytes
    };
    let (entries, size, start) = (number(10, 2), number(12, 4), number(16, 4));
    let record = archive.len() as u64;
    archive.extend(b"PK\x06\x06");
    archive.extend(44_u64.to_le_bytes());
    archive.extend([30, 3, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    archive.extend([entries, entries, size, start].concat());
    archive.extend(b"PK\x06\x07\0\0\0\0");
    archive.extend(record.to_le_bytes());
    archive.extend(1_u32.to_le_bytes());
    archive.extend(end);
    archive
}
