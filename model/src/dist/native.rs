//! libtorch's store and its Gloo, by way of `native/dist/dist.cpp`.

use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tch::Tensor;

use crate::nn::kernels::JointSum;
use crate::nn::native::to_result;

unsafe extern "C" {
    fn rsflow_nccl_version() -> i32;
    fn rsflow_store_open(
        host: *const c_char,
        port: u16,
        serves: bool,
        timeout_ms: i64,
        store: *mut *mut c_void,
    ) -> *const c_char;
    fn rsflow_store_set(
        store: *mut c_void,
        key: *const c_char,
        value: *const u8,
        length: usize,
    ) -> *const c_char;
    fn rsflow_store_find(
        store: *mut c_void,
        key: *const c_char,
        value: *mut *const u8,
        length: *mut usize,
    ) -> *const c_char;
    fn rsflow_store_set_first(
        store: *mut c_void,
        key: *const c_char,
        value: *const u8,
        length: usize,
        first: *mut *const u8,
        first_length: *mut usize,
    ) -> *const c_char;
    fn rsflow_store_count(store: *mut c_void, key: *const c_char, count: *mut i64)
    -> *const c_char;
    fn rsflow_store_list(
        store: *mut c_void,
        prefix: *const c_char,
        count: usize,
        values: *mut *const u8,
        length: *mut usize,
    ) -> *const c_char;
    fn rsflow_store_delete(store: *mut c_void);
    fn rsflow_group_open(
        store: *mut c_void,
        name: *const c_char,
        rank: c_int,
        size: c_int,
        timeout_ms: i64,
        group: *mut *mut c_void,
    ) -> *const c_char;
    fn rsflow_group_sum(
        group: *mut c_void,
        tensor: *const c_void,
        work: *mut *mut c_void,
    ) -> *const c_char;
    fn rsflow_sum_wait(sum: *const c_void, timeout_ms: i64, done: *mut bool) -> *const c_char;
    fn rsflow_sum_delete(sum: *mut c_void);
    fn rsflow_group_sum_now(group: *mut c_void, tensor: *const c_void) -> *const c_char;
    fn rsflow_group_open_gpu(
        group: *mut c_void,
        store: *const c_void,
        name: *const c_char,
        timeout_ms: i64,
    ) -> *const c_char;
    fn rsflow_group_give_up(group: *mut c_void) -> *const c_char;
    fn rsflow_group_has_failed(group: *const c_void) -> bool;
    fn rsflow_group_delete(group: *mut c_void);
    fn rsflow_reducer_new(
        group: *mut c_void,
        parameters: *const *const c_void,
        bucket_of: *const usize,
        count: usize,
        in_bfloat16: bool,
        reducer: *mut *mut c_void,
    ) -> *const c_char;
    fn rsflow_reducer_begin(reducer: *mut c_void) -> *const c_char;
    fn rsflow_reducer_end(reducer: *mut c_void, missing: *mut usize) -> *const c_char;
    fn rsflow_reducer_finish(
        reducer: *mut c_void,
        timeout_ms: i64,
        done: *mut bool,
    ) -> *const c_char;
    fn rsflow_reducer_delete(reducer: *mut c_void);
}

/// Small values that all processes of a run reach, by name.
#[derive(Debug)]
pub(super) struct Store(*mut c_void);

// SAFETY: libtorch's store may be used by several threads at a time.
unsafe impl Send for Store {}
// SAFETY: likewise.
unsafe impl Sync for Store {}

impl Store {
    /// The store at a place. `serves`: it lives in this process, for as long as this value. The other
    /// processes wait until it is there.
    ///
    /// # Errors
    /// Nobody answers within `timeout`; the port is taken.
    pub fn open(host: &str, port: u16, serves: bool, timeout: Duration) -> Result<Self> {
        let host = CString::new(host).context("a host's name")?;
        let mut store = ptr::null_mut();
        // SAFETY: the text and the place for the result outlive the call.
        to_result(unsafe {
            rsflow_store_open(
                host.as_ptr(),
                port,
                serves,
                milliseconds(timeout),
                &mut store,
            )
        })?;
        Ok(Store(store))
    }

    /// Sets a value.
    ///
    /// # Errors
    /// The process that holds the store is gone.
    pub fn set(&self, key: &str, value: &str) -> Result<()> {
        let key = CString::new(key)?;
        // SAFETY: the texts outlive the call.
        to_result(unsafe { rsflow_store_set(self.0, key.as_ptr(), value.as_ptr(), value.len()) })
    }

    /// A value, if it was set.
    ///
    /// # Errors
    /// The process that holds the store is gone.
    pub fn find(&self, key: &str) -> Result<Option<String>> {
        let key = CString::new(key)?;
        let (mut value, mut length) = (ptr::null(), 0);
        // SAFETY: the text and the places for the result outlive the call.
        to_result(unsafe { rsflow_store_find(self.0, key.as_ptr(), &mut value, &mut length) })?;
        if value.is_null() {
            return Ok(None);
        }
        // SAFETY: valid until this thread's next call.
        Ok(Some(unsafe { text(value, length) }))
    }

    /// Sets a value unless there is one. Returns the one that is there.
    ///
    /// # Errors
    /// The process that holds the store is gone.
    pub fn set_first(&self, key: &str, value: &str) -> Result<String> {
        let key = CString::new(key)?;
        let (mut first, mut length) = (ptr::null(), 0);
        // SAFETY: the texts and the places for the result outlive the call.
        to_result(unsafe {
            rsflow_store_set_first(
                self.0,
                key.as_ptr(),
                value.as_ptr(),
                value.len(),
                &mut first,
                &mut length,
            )
        })?;
        // SAFETY: valid until this thread's next call.
        Ok(unsafe { text(first, length) })
    }

    /// Adds one to a number, which is 0 at first, and returns it.
    ///
    /// # Errors
    /// The process that holds the store is gone.
    pub fn count(&self, key: &str) -> Result<u64> {
        let key = CString::new(key)?;
        let mut count = 0;
        // SAFETY: the text and the place for the result outlive the call.
        to_result(unsafe { rsflow_store_count(self.0, key.as_ptr(), &mut count) })?;
        Ok(count.try_into()?)
    }

    /// The values of `prefix0`, `prefix1` and so on, which must have been set; without line breaks.
    ///
    /// # Errors
    /// The process that holds the store is gone.
    pub fn list(&self, prefix: &str, count: usize) -> Result<Vec<String>> {
        let prefix = CString::new(prefix)?;
        let (mut values, mut length) = (ptr::null(), 0);
        // SAFETY: the text and the places for the result outlive the call.
        to_result(unsafe {
            rsflow_store_list(self.0, prefix.as_ptr(), count, &mut values, &mut length)
        })?;
        // SAFETY: valid until this thread's next call.
        let lines = unsafe { text(values, length) };
        Ok(lines.lines().map(str::to_owned).collect())
    }
}

/// Bytes that the C++ side holds.
///
/// # Safety
/// There are so many at the pointer, or none.
unsafe fn text(bytes: *const u8, length: usize) -> String {
    if length == 0 {
        return String::new();
    }
    // SAFETY: the caller's promise.
    let bytes = unsafe { std::slice::from_raw_parts(bytes, length) };
    String::from_utf8_lossy(bytes).into_owned()
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: we own the pointer, and do not use it again.
        unsafe { rsflow_store_delete(self.0) }
    }
}

/// Processes that sum tensors.
#[derive(Debug)]
pub(super) struct Group(*mut c_void);

// SAFETY: libtorch's groups may be used by several threads at a time.
unsafe impl Send for Group {}
// SAFETY: likewise.
unsafe impl Sync for Group {}

impl Group {
    /// The processes that meet in the store under this name.
    ///
    /// # Errors
    /// Not all of them come within `timeout`, which is also the longest that a sum may take.
    pub fn open(
        store: &Store,
        name: &str,
        rank: u32,
        size: u32,
        timeout: Duration,
    ) -> Result<Self> {
        let name = CString::new(name)?;
        let mut group = ptr::null_mut();
        // SAFETY: the store and the text outlive the call; the C++ side shares the store.
        to_result(unsafe {
            rsflow_group_open(
                store.0,
                name.as_ptr(),
                rank as c_int,
                size as c_int,
                milliseconds(timeout),
                &mut group,
            )
        })?;
        Ok(Group(group))
    }

    /// Begins to replace a tensor by its sum over all processes, which all begin their sums in the same
    /// order, of tensors of the same shape and dtype.
    ///
    /// # Errors
    /// A tensor that is not dense, or on a GPU before [`Group::open_gpu`].
    pub fn sum(&self, tensor: &Tensor) -> Result<Sum> {
        let mut work = ptr::null_mut();
        // SAFETY: the tensor is live, and the C++ side shares its memory.
        to_result(unsafe { rsflow_group_sum(self.0, tensor.as_ptr().cast(), &mut work) })?;
        Ok(Sum(work))
    }
}

impl Group {
    /// From now on sums tensors on GPUs, too, by NCCL. The processes meet in the store, a connection of this
    /// group's own. No sum may take longer than `timeout`.
    ///
    /// # Errors
    /// libtorch has no NCCL; there is no GPU.
    pub fn open_gpu(&self, store: &Store, name: &str, timeout: Duration) -> Result<()> {
        let name = CString::new(name)?;
        // SAFETY: the pointers are live and the text outlives the call; the C++ side shares the store.
        to_result(unsafe {
            rsflow_group_open_gpu(self.0, store.0, name.as_ptr(), milliseconds(timeout))
        })
    }

    /// Another process is lost: sums within forward and backward passes are not waited for any more.
    pub fn give_up(&self) {
        // SAFETY: the pointer is live; it may be called on any thread, at any time.
        if let Err(error) = to_result(unsafe { rsflow_group_give_up(self.0) }) {
            tracing::debug!("cannot abort the exchange on GPUs: {error:#}");
        }
    }

    /// Whether a sum within a forward or backward pass has failed.
    pub fn has_failed(&self) -> bool {
        // SAFETY: the pointer is live; an atomic flag is read.
        unsafe { rsflow_group_has_failed(self.0) }
    }

    /// How batch norms sum their statistics with this group, for as long as it lives.
    pub fn joint_sum(self: &Arc<Self>) -> JointSum {
        let owner: Arc<Self> = Arc::clone(self);
        // SAFETY: the function takes this pointer and live tensors, and the group lives as long as the value.
        unsafe { JointSum::new(rsflow_group_sum_now, self.0, owner) }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: we own the pointer, and do not use it again.
        unsafe { rsflow_group_delete(self.0) }
    }
}

/// A sum that was begun.
#[must_use]
#[derive(Debug)]
pub(super) struct Sum(*mut c_void);

impl Sum {
    /// Whether it is there; waits for it, but not longer than `timeout`.
    ///
    /// # Errors
    /// Another process is gone, or took too long.
    pub fn wait(&self, timeout: Duration) -> Result<bool> {
        let mut done = false;
        // SAFETY: the pointer is live, and the place for the result outlives the call.
        to_result(unsafe { rsflow_sum_wait(self.0, milliseconds(timeout), &mut done) })?;
        Ok(done)
    }
}

impl Drop for Sum {
    fn drop(&mut self) {
        // SAFETY: we own the pointer, and do not use it again. libtorch keeps a sum that is not done yet.
        unsafe { rsflow_sum_delete(self.0) }
    }
}

/// Buckets of gradients that are filled and summed during a backward pass.
#[derive(Debug)]
pub(super) struct Buckets(*mut c_void);

// SAFETY: it is used by one thread at a time, and libtorch's threads in between.
unsafe impl Send for Buckets {}

impl Buckets {
    /// `bucket_of` has the number of its bucket for each parameter, in the order in which buckets are summed.
    ///
    /// # Errors
    /// Parameters that are not dense or not of one dtype; out of memory.
    pub fn new(
        group: &Group,
        parameters: &[&Tensor],
        bucket_of: &[usize],
        in_bfloat16: bool,
    ) -> Result<Self> {
        ensure!(
            parameters.len() == bucket_of.len(),
            "a bucket for each parameter"
        );
        let pointers: Vec<*const c_void> = parameters
            .iter()
            .map(|parameter| parameter.as_ptr().cast())
            .collect();
        let mut reducer = ptr::null_mut();
        // SAFETY: the tensors are live, the slices outlive the call and have `count` elements; the C++ side
        // shares the tensors and the group.
        to_result(unsafe {
            rsflow_reducer_new(
                group.0,
                pointers.as_ptr(),
                bucket_of.as_ptr(),
                pointers.len(),
                in_bfloat16,
                &mut reducer,
            )
        })?;
        Ok(Buckets(reducer))
    }

    /// Before a backward pass.
    ///
    /// # Errors
    /// None in practice.
    pub fn begin(&self) -> Result<()> {
        // SAFETY: the pointer is live.
        to_result(unsafe { rsflow_reducer_begin(self.0) })
    }

    /// After it: the index of the first parameter that had no gradient; their number if each had one.
    ///
    /// # Errors
    /// None in practice.
    pub fn end(&self) -> Result<usize> {
        let mut missing = 0;
        // SAFETY: the pointer is live, and the place for the result outlives the call.
        to_result(unsafe { rsflow_reducer_end(self.0, &mut missing) })?;
        Ok(missing)
    }

    /// After that: whether all sums are there; waits for each, but not longer than `timeout`.
    ///
    /// # Errors
    /// Another process is gone, or took too long.
    pub fn finish(&self, timeout: Duration) -> Result<bool> {
        let mut done = false;
        // SAFETY: the pointer is live, and the place for the result outlives the call.
        to_result(unsafe { rsflow_reducer_finish(self.0, milliseconds(timeout), &mut done) })?;
        Ok(done)
    }
}

impl Drop for Buckets {
    fn drop(&mut self) {
        // SAFETY: we own the pointer, and do not use it again.
        unsafe { rsflow_reducer_delete(self.0) }
    }
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The version of the NCCL by which processes exchange tensors on GPUs, `2.27.5`; `None` where there is none, as
/// before libtorch's part for GPUs is loaded.
pub fn nccl_version() -> Option<String> {
    // SAFETY: it finds a function by its name and calls it with a number of its own.
    let number = unsafe { rsflow_nccl_version() };
    (number > 0).then(|| {
        format!(
            "{}.{}.{}",
            number / 10_000,
            number / 100 % 100,
            number % 100
        )
    })
}
