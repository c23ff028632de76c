//! libtorch's store and its Gloo, by way of `native/dist/dist.cpp`.

use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tch::Tensor;

use crate::nn::native::to_result;

unsafe extern "C" {
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
    fn rsflow_store_get(
        store: *mut c_void,
        key: *const c_char,
        timeout_ms: i64,
        value: *mut *const u8,
        length: *mut usize,
    ) -> *const c_char;
    fn rsflow_store_has(store: *mut c_void, key: *const c_char, has: *mut bool) -> *const c_char;
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
    fn rsflow_work_wait(work: *mut c_void) -> *const c_char;
    fn rsflow_group_delete(group: *mut c_void);
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

    /// A value, for which it waits.
    ///
    /// # Errors
    /// There is none within `timeout`; the process that holds the store is gone.
    pub fn get(&self, key: &str, timeout: Duration) -> Result<String> {
        let key = CString::new(key)?;
        let (mut value, mut length) = (ptr::null(), 0);
        // SAFETY: the text and the places for the result outlive the call.
        to_result(unsafe {
            rsflow_store_get(
                self.0,
                key.as_ptr(),
                milliseconds(timeout),
                &mut value,
                &mut length,
            )
        })?;
        if length == 0 {
            return Ok(String::new());
        }
        // SAFETY: valid until this thread's next call.
        let bytes = unsafe { std::slice::from_raw_parts(value, length) };
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }

    /// Whether there is a value.
    ///
    /// # Errors
    /// The process that holds the store is gone.
    pub fn has(&self, key: &str) -> Result<bool> {
        let key = CString::new(key)?;
        let mut has = false;
        // SAFETY: the text and the place for the result outlive the call.
        to_result(unsafe { rsflow_store_has(self.0, key.as_ptr(), &mut has) })?;
        Ok(has)
    }
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
    /// A tensor that is not dense, or on another device than the CPU.
    pub fn sum(&self, tensor: &Tensor) -> Result<Sum> {
        let mut work = ptr::null_mut();
        // SAFETY: the tensor is live, and the C++ side shares its memory.
        to_result(unsafe { rsflow_group_sum(self.0, tensor.as_ptr().cast(), &mut work) })?;
        Ok(Sum(work))
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
    /// Waits for it.
    ///
    /// # Errors
    /// Another process is gone, or took too long.
    pub fn wait(mut self) -> Result<()> {
        let work = std::mem::replace(&mut self.0, ptr::null_mut());
        // SAFETY: we own the pointer, and do not use it again.
        to_result(unsafe { rsflow_work_wait(work) })
    }
}

impl Drop for Sum {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: as in `wait`. That it failed matters to nobody any more.
            let _ = unsafe { rsflow_work_wait(self.0) };
        }
    }
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
