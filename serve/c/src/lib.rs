//! The functions of `rsflow_net.h`, which says what they do.
//!
//! Each catches what goes wrong in it: an error becomes the thread's message, and so does a panic, which must
//! not unwind into C.

#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::slice;

use anyhow::{Context as _, Result, anyhow, ensure};
use rsflow_model::nn::compute::{self, DeviceChoice, ProcessSettings};
use rsflow_serve::{Budget, Images, Options, RsNet};

thread_local! {
    static ERROR: RefCell<CString> = RefCell::default();
}

/// A network, and the names of its classes as C has them.
#[allow(non_camel_case_types)]
pub struct rsflow_net {
    net: RsNet,
    classes: Vec<CString>,
}

/// A class and its probability in 0..1.
#[allow(non_camel_case_types)]
#[repr(C)]
pub struct rsflow_prediction {
    class_index: usize,
    probability: f64,
}

/// The value, or `failed` with the message kept.
fn caught<T>(failed: T, call: impl FnOnce() -> Result<T>) -> T {
    let result = catch_unwind(AssertUnwindSafe(call));
    let result = result.unwrap_or_else(|_| Err(anyhow!("a panic, which is a bug of rsflow")));
    result.unwrap_or_else(|error| {
        let text = format!("{error:#}").replace('\0', "\u{fffd}");
        ERROR.with_borrow_mut(|kept| *kept = CString::new(text).unwrap_or_default());
        failed
    })
}

/// # Safety
/// Null, or a network of `rsflow_open` that is not closed.
unsafe fn opened<'a>(net: *const rsflow_net) -> Result<&'a rsflow_net> {
    // SAFETY: the caller's promise.
    unsafe { net.as_ref() }.context("the network is NULL")
}

/// No memory is larger than `isize::MAX` bytes.
fn check<T>(first: *const T, count: usize, name: &str) -> Result<()> {
    ensure!(!first.is_null(), "`{name}` is NULL");
    let most = isize::MAX as usize / size_of::<T>();
    ensure!(count <= most, "`{name}` cannot have {count} values");
    Ok(())
}

/// # Safety
/// Null, or `count` values that live as long as the call.
unsafe fn values<'a, T>(first: *const T, count: usize, name: &str) -> Result<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    check(first, count, name)?;
    // SAFETY: the caller's promise.
    Ok(unsafe { slice::from_raw_parts(first, count) })
}

/// As [`values`], to be written.
///
/// # Safety
/// As there, and nobody else uses them.
unsafe fn places<'a, T>(first: *mut T, count: usize, name: &str) -> Result<&'a mut [T]> {
    if count == 0 {
        return Ok(&mut []);
    }
    check(first, count, name)?;
    // SAFETY: the caller's promise, and what is written here has no value that is not allowed.
    Ok(unsafe { slice::from_raw_parts_mut(first, count) })
}

#[unsafe(no_mangle)]
pub extern "C" fn rsflow_error() -> *const c_char {
    ERROR.with_borrow(|kept| kept.as_ptr())
}

/// # Safety
/// A string that ends with a zero, and `count` sizes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rsflow_open(
    checkpoint: *const c_char,
    sizes: *const u32,
    count: usize,
) -> *mut rsflow_net {
    caught(ptr::null_mut(), || {
        ensure!(!checkpoint.is_null(), "`checkpoint` is NULL");
        // SAFETY: the caller's promise.
        let (path, sizes) = unsafe { (CStr::from_ptr(checkpoint), values(sizes, count, "sizes")?) };
        // As `rsflow predict` does it.
        compute::apply(&ProcessSettings {
            device: DeviceChoice::Auto,
            tf32: false,
            deterministic: false,
            threads: None,
        })?;
        let options = Options {
            sizes: sizes.to_vec(),
            ..Options::default()
        };
        let net = RsNet::open(path.to_str().context("the path is not UTF-8")?, &options)?;
        let names = net.runtime().classes().iter();
        let classes = names.map(|name| CString::new(name.replace('\0', "\u{fffd}")));
        let classes = classes.collect::<Result<_, _>>()?;
        Ok(Box::into_raw(Box::new(rsflow_net { net, classes })))
    })
}

/// # Safety
/// Null, or a network of `rsflow_open` that nobody uses any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rsflow_close(net: *mut rsflow_net) {
    if !net.is_null() {
        caught((), || {
            // SAFETY: it is from `Box::into_raw`, and the caller promises that it is not used.
            drop(unsafe { Box::from_raw(net) });
            Ok(())
        });
    }
}

/// # Safety
/// A network, and room for so many sizes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rsflow_sizes(
    net: *const rsflow_net,
    sizes: *mut u32,
    room: usize,
) -> usize {
    caught(0, || {
        // SAFETY: the caller's promise.
        let (net, places) = unsafe { (opened(net)?, places(sizes, room, "sizes")?) };
        let loaded = net.net.sizes();
        for (place, size) in places.iter_mut().zip(loaded) {
            *place = *size;
        }
        Ok(loaded.len())
    })
}

/// # Safety
/// A network.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rsflow_class_count(net: *const rsflow_net) -> usize {
    // SAFETY: the caller's promise.
    caught(0, || Ok(unsafe { opened(net) }?.classes.len()))
}

/// # Safety
/// A network.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rsflow_class_name(net: *const rsflow_net, index: usize) -> *const c_char {
    caught(ptr::null(), || {
        // SAFETY: the caller's promise.
        let classes = &unsafe { opened(net) }?.classes;
        let name = classes.get(index);
        let name = name.with_context(|| format!("there are {} classes", classes.len()))?;
        Ok(name.as_ptr())
    })
}

/// # Safety
/// A network.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rsflow_size_within(net: *const rsflow_net, milliseconds: f64) -> u32 {
    caught(0, || {
        // SAFETY: the caller's promise.
        let net = &unsafe { opened(net) }?.net;
        net.size_within(Budget::Milliseconds(milliseconds))
    })
}

/// # Safety
/// A network, so many bytes, and room for so many predictions.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rsflow_classify(
    net: *const rsflow_net,
    file: *const u8,
    bytes: usize,
    size: u32,
    predictions: *mut rsflow_prediction,
    top: usize,
) -> usize {
    caught(0, || {
        ensure!(top > 0, "`top` must be at least 1");
        // SAFETY: the caller's promise.
        let (net, file, places) = unsafe {
            let net = opened(net)?;
            let top = top.min(net.classes.len());
            let places = places(predictions, top, "predictions")?;
            (net, values(file, bytes, "file")?, places)
        };
        let answer = net.net.classify(file, size, top)?;
        for (place, prediction) in places.iter_mut().zip(&answer.predictions) {
            place.class_index = prediction.index;
            place.probability = prediction.probability;
        }
        Ok(answer.predictions.len())
    })
}

/// # Safety
/// A network, pixels of so many images, and room for their logits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rsflow_logits(
    net: *const rsflow_net,
    pixels: *const u8,
    count: usize,
    size: u32,
    logits: *mut f32,
) -> c_int {
    caught(0, || {
        // SAFETY: the caller's promise.
        let net = unsafe { opened(net) }?;
        let side = size as usize;
        let bytes = side
            .checked_mul(side)
            .and_then(|n| n.checked_mul(3)?.checked_mul(count));
        let values_out = count.checked_mul(net.classes.len());
        let (bytes, values_out) = bytes.zip(values_out).context("too many images")?;
        // SAFETY: the caller's promise.
        let (pixels, logits) = unsafe {
            let logits = places(logits, values_out, "logits")?;
            (values(pixels, bytes, "pixels")?, logits)
        };
        let runtime = net.net.runtime();
        runtime.logits_into(Images::Bytes(pixels), size, logits)?;
        Ok(1)
    })
}
