//! CUPTI's buffers, and the records in them.
//!
//! CUPTI asks for buffers and returns them full by two callbacks, from threads of its own and from those that
//! call CUDA. The callbacks must not panic: nothing above them can be unwound.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::HashSet;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Arc;

use super::{Activity, CopyKind, Lost, What};

/// 8 MiB, some 37,000 kernels, aligned as CUPTI wants its records.
const BUFFER: Layout = match Layout::from_size_align(8 << 20, 8) {
    Ok(layout) => layout,
    Err(_) => panic!("not a layout"),
};

/// Numbers of CUPTI's kinds of activities: a copy, a fill, and a kernel that may overlap with others.
const COPY: u32 = 1;
const SET: u32 = 2;
const KERNEL: u32 = 10;
/// What is recorded.
pub(super) const KINDS: [u32; 3] = [KERNEL, COPY, SET];

/// Where the fields of the records lie, in bytes from the start of a record.
///
/// Newer versions of CUPTI only append to a record. These offsets were compared, by `offsetof`, with the
/// headers of CUPTI for CUDA 11.8 (kernel record 8), 12.0, 12.1, 12.2, 12.3, 12.4, 12.5, 12.6, 12.8 and 12.9
/// (kernel record 9, copy record 5 or 6, fill record 4), and 13.0, 13.1, 13.2, 13.3, 13.4 and 13.5 (kernel
/// records 10 to 13, copy records 6 and 7, fill records 4 and 5).
mod offset {
    /// `u32`, of every record.
    pub const KIND: usize = 0;
    /// `u64`, of every record that is read here, as is the end.
    pub const START: usize = 16;
    pub const END: usize = 24;
    /// `u32`.
    pub const KERNEL_DEVICE: usize = 40;
    /// `const char *`.
    pub const KERNEL_NAME: usize = 104;
    /// `u8`.
    pub const COPY_KIND: usize = 4;
    /// `u64`, of copies and fills, as is the device, a `u32`.
    pub const BYTES: usize = 8;
    pub const DEVICE: usize = 32;
}

/// Gives the record after `*record` in a buffer, the first one after null.
pub(super) type GetNextRecord = unsafe extern "C" fn(*mut u8, usize, *mut *mut c_void) -> c_int;
/// Asks for a buffer, its size, and the most records that may be put there (0: as many as fit).
pub(super) type Requested = unsafe extern "C" fn(*mut *mut u8, *mut usize, *mut usize);
/// Returns a buffer: nothing, nothing, the buffer, its size, the bytes with records.
pub(super) type Completed = unsafe extern "C" fn(*mut c_void, u32, *mut u8, usize, usize);

/// What the callbacks collect.
pub(super) struct Sink {
    next: GetNextRecord,
    limit: usize,
    names: HashSet<Arc<str>>,
    activities: Vec<Activity>,
    lost: Lost,
    /// The first code of `next` that is neither success nor the end.
    failure: Option<c_int>,
}

impl Sink {
    /// Keeps at most `limit` activities, which `next` finds in the buffers.
    pub fn new(next: GetNextRecord, limit: usize) -> Self {
        Sink {
            next,
            limit,
            names: HashSet::new(),
            activities: Vec::new(),
            lost: Lost::default(),
            failure: None,
        }
    }

    /// All that came, what is missing, and the code with which CUPTI failed.
    pub fn finish(self) -> (Vec<Activity>, Lost, Option<c_int>) {
        (self.activities, self.lost, self.failure)
    }

    /// Takes the records of a buffer.
    ///
    /// # Safety
    /// CUPTI returned it, with that many bytes of records.
    unsafe fn read(&mut self, buffer: *mut u8, bytes: usize) {
        const MAX_LIMIT_REACHED: c_int = 12;
        const INVALID_KIND: c_int = 21;
        let mut record = std::ptr::null_mut();
        loop {
            // SAFETY: as the header declares it, with the caller's promise.
            match unsafe { (self.next)(buffer, bytes, &mut record) } {
                // SAFETY: it is a record, which ends within the buffer.
                0 if !record.is_null() => unsafe { self.take(record.cast()) },
                0 | MAX_LIMIT_REACHED => break,
                // A record that a forced flush found unfinished.
                INVALID_KIND => {
                    self.lost.cut_buffers += 1;
                    break;
                }
                code => {
                    self.failure.get_or_insert(code);
                    break;
                }
            }
        }
    }

    /// Takes a record.
    ///
    /// # Safety
    /// It is one of CUPTI, complete, of a version for which [`offset`] holds.
    unsafe fn take(&mut self, record: *const u8) {
        // SAFETY: every record starts with its kind.
        let kind = unsafe { field::<u32>(record, offset::KIND) };
        // CUPTI adds records of other kinds now and then.
        if !KINDS.contains(&kind) {
            return;
        }
        // SAFETY: these kinds of records have these fields; the same below.
        let (start, end) = unsafe {
            (
                field::<u64>(record, offset::START),
                field::<u64>(record, offset::END),
            )
        };
        let (activities, lost) = (&mut self.activities, &mut self.lost);
        // Zero says that CUPTI could not time it.
        if start == 0 || end == 0 {
            lost.untimed += 1;
            return;
        }
        if activities.len() >= self.limit || activities.try_reserve(1).is_err() {
            lost.over_limit += 1;
            return;
        }
        let device = match kind {
            KERNEL => offset::KERNEL_DEVICE,
            _ => offset::DEVICE,
        };
        // SAFETY: as above.
        let device = unsafe { field::<u32>(record, device) };
        let what = match kind {
            KERNEL => {
                // SAFETY: as above.
                let name = unsafe { field::<*const c_char>(record, offset::KERNEL_NAME) };
                // SAFETY: null or a text of CUPTI, which outlives the buffer.
                What::Kernel(unsafe { shared(&mut self.names, name) })
            }
            COPY => What::Copy {
                // SAFETY: as above.
                kind: copy_kind(unsafe { field::<u8>(record, offset::COPY_KIND) }),
                // SAFETY: as above.
                bytes: unsafe { field::<u64>(record, offset::BYTES) },
            },
            _ => What::Set {
                // SAFETY: as above.
                bytes: unsafe { field::<u64>(record, offset::BYTES) },
            },
        };
        activities.push(Activity {
            start,
            end,
            device,
            what,
        });
    }
}

/// A field of a record.
///
/// # Safety
/// A `T` lies at this offset, where any bits are one.
unsafe fn field<T: Copy>(record: *const u8, offset: usize) -> T {
    // SAFETY: the caller's promise; old records are packed, so it may lie anywhere.
    unsafe { record.byte_add(offset).cast::<T>().read_unaligned() }
}

/// The text of a kernel's name, once for all kernels of that name.
///
/// # Safety
/// Null, or a text that ends with a zero.
unsafe fn shared(names: &mut HashSet<Arc<str>>, name: *const c_char) -> Arc<str> {
    let name = if name.is_null() {
        c"(no name)"
    } else {
        // SAFETY: not null, and the caller's promise.
        unsafe { CStr::from_ptr(name) }
    };
    let name = name.to_string_lossy();
    if let Some(known) = names.get(&*name) {
        return Arc::clone(known);
    }
    let name: Arc<str> = name.into();
    names.insert(Arc::clone(&name));
    name
}

fn copy_kind(number: u8) -> CopyKind {
    match number {
        1 => CopyKind::HostToDevice,
        2 => CopyKind::DeviceToHost,
        8 => CopyKind::DeviceToDevice,
        9 => CopyKind::HostToHost,
        10 => CopyKind::PeerToPeer,
        other => CopyKind::Other(other),
    }
}

/// Gives CUPTI a buffer. Without memory it gets none, and counts the records that it drops.
pub(super) unsafe extern "C" fn requested(
    buffer: *mut *mut u8,
    size: *mut usize,
    most_records: *mut usize,
) {
    // SAFETY: not of size zero.
    let memory = unsafe { alloc_zeroed(BUFFER) };
    // SAFETY: CUPTI passes places for the results.
    unsafe {
        *buffer = memory;
        *size = if memory.is_null() { 0 } else { BUFFER.size() };
        *most_records = 0;
    }
}

/// Takes a buffer back, at any time, even long after the recorder stopped.
pub(super) unsafe extern "C" fn completed(
    _context: *mut c_void,
    _stream: u32,
    buffer: *mut u8,
    _size: usize,
    bytes: usize,
) {
    if buffer.is_null() {
        return;
    }
    if let Some(sink) = super::sink().as_mut() {
        // SAFETY: CUPTI returned it, with that many bytes of records.
        unsafe { sink.read(buffer, bytes) };
    }
    // SAFETY: it came from `requested`, and CUPTI does not use it any more.
    unsafe { dealloc(buffer, BUFFER) };
}
