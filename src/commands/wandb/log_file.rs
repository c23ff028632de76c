//! Records in a file: the log format of LevelDB
//! (<https://github.com/google/leveldb/blob/main/doc/log_format.md>), but with a header, and with the checksums of
//! zlib (CRC-32) in place of CRC-32C.

use crc32fast::Hasher;
use prost::Message as _;

use super::messages::Record;

/// `:W&B`, the number that W&B has chosen (0xBEE1), version 0.
const HEADER: [u8; 7] = [b':', b'W', b'&', b'B', 0xe1, 0xbe, 0];
/// No part of a record crosses the end of a block.
const BLOCK: usize = 32 * 1024;
/// Of each part: its checksum, its length, its kind.
const PART_HEADER: usize = 7;

/// Parts of a record.
const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;

/// The content of the file.
pub fn bytes(records: impl IntoIterator<Item = Record>) -> Vec<u8> {
    let mut file = HEADER.to_vec();
    for record in records {
        add(&mut file, &record.encode_to_vec());
    }
    file
}

fn add(file: &mut Vec<u8>, record: &[u8]) {
    let mut rest = record;
    let mut is_first = true;
    loop {
        let mut room = BLOCK - file.len() % BLOCK;
        if room < PART_HEADER {
            file.resize(file.len() + room, 0);
            room = BLOCK;
        }
        let (part, after) = rest.split_at(rest.len().min(room - PART_HEADER));
        rest = after;
        let kind = match (is_first, rest.is_empty()) {
            (true, true) => FULL,
            (true, false) => FIRST,
            (false, false) => MIDDLE,
            (false, true) => LAST,
        };
        let mut checksum = Hasher::new();
        checksum.update(&[kind]);
        checksum.update(part);
        file.extend(checksum.finalize().to_le_bytes());
        // Less than a block.
        file.extend((part.len() as u16).to_le_bytes());
        file.push(kind);
        file.extend(part);
        is_first = false;
        if rest.is_empty() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the parts of a file begin, their checksums, lengths and kinds, as W&B's own writer (`DataStore` of
    /// version 0.19.11) has them.
    #[test]
    fn parts_are_those_that_wandb_writes() {
        // The second one ends where its block does, the third one leaves less room than a header has, the fourth
        // one just as much, the last one takes three blocks.
        let lengths = [100, BLOCK - 121, BLOCK - 10, BLOCK - 14, 70_000];
        let expected = [
            (7, 0xe6a0_c8e5, 100, FULL),
            (114, 0xf599_2acc, 32_647, FULL),
            (32_768, 0x08c7_6c4c, 32_758, FULL),
            (65_536, 0xd944_881f, 32_754, FULL),
            (98_297, 0x3c0c_8ea1, 0, FIRST),
            (98_304, 0xb65a_3e88, 32_761, MIDDLE),
            (131_072, 0x0848_90d5, 32_761, MIDDLE),
            (163_840, 0x32ae_60bf, 4_478, LAST),
        ];
        let mut file = HEADER.to_vec();
        for (number, length) in lengths.into_iter().enumerate() {
            let record: Vec<u8> = (0..length).map(|at| (at + number) as u8).collect();
            add(&mut file, &record);
        }
        let mut end = HEADER.len();
        for (at, checksum, length, kind) in expected {
            assert!(file[end..at].iter().all(|byte| *byte == 0), "before {at}");
            let header = [
                u32::to_le_bytes(checksum).as_slice(),
                &u16::to_le_bytes(length),
                &[kind],
            ]
            .concat();
            assert_eq!(file[at..at + PART_HEADER], header, "at {at}");
            end = at + PART_HEADER + usize::from(length);
        }
        assert_eq!(end, file.len());
    }
}
