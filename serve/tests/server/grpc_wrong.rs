//! The messages of gRPC, and what is none.

use std::time::Duration;

use prost::Message as _;
use prost::bytes::Bytes;
use rsflow_serve::server::grpc::messages::*;
use tonic::Code;
use tonic::body::Body;

use super::super::client::get;
use super::super::sleeper::{config, start};
use super::{INFER, client, files, images, infer, raw, request, with};

#[test]
fn grpc_messages_are_those_of_protobuf() {
    // As Python's protobuf writes them from grpc_service.proto, with fields that are left out here.
    let bytes = |hex: &str| -> Bytes {
        let pairs = hex.as_bytes().as_chunks::<2>().0.iter();
        let byte = |pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
        pairs.map(|pair| byte(pair)).collect()
    };
    let sent = bytes(
        "0a016d1201311a013722180a0b646561646c696e655f6d731209210000000000000440220a0a0473697a65120210202a3e0a06\
         706978656c73120555494e54381a0d01ffffffffffffffffff01ac0222070a0178120208012a151a0105220301c80132080000\
         003f000000c0420161321e0a066c6f6769747312140a0e636c617373696669636174696f6e120210033a020102",
    );
    let contents = InputContents {
        uint_contents: Bytes::from_static(b"\x01\xc8\x01"),
        fp32_contents: [0.5_f32, -2.0]
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect(),
        bytes_contents: vec![Bytes::from_static(b"a")],
    };
    let mut expected = request("pixels", "UINT8", &[1, -1, 300], contents);
    expected.model_name = "m".to_owned();
    expected.model_version = "1".to_owned();
    expected = with(expected, "size", Parameter::Int64(32));
    expected = with(expected, "deadline_ms", Parameter::Double(2.5));
    let name = "logits".to_owned();
    expected.outputs = vec![InferRequestedOutputTensor { name }];
    expected.raw_input_contents = vec![Bytes::from_static(b"\x01\x02")];
    assert_eq!(ModelInferRequest::decode(sent).unwrap(), expected);

    let answer = ModelInferResponse {
        model_name: "m".to_owned(),
        model_version: "1".to_owned(),
        id: "7".to_owned(),
        parameters: [("queue_ms".to_owned(), Parameter::Double(1.5).into())].into(),
        outputs: vec![InferOutputTensor {
            name: "logits".to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![1, 2],
            contents: Some(OutputContents {
                int_contents: vec![7, -1],
                fp32_contents: vec![0.5, -2.0],
            }),
        }],
        raw_output_contents: vec![Bytes::from_static(b"\x01\x02")],
    };
    let expected = bytes(
        "0a016d1201311a013722150a0871756575655f6d73120921000000000000f83f2a2b0a066c6f676974731204465033321a0201\
         022a17120b07ffffffffffffffffff0132080000003f000000c032020102",
    );
    assert_eq!(answer.encode_to_vec(), expected);
    let tensor = |name: &str, datatype: &str, shape: &[i64]| TensorMetadata {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape: shape.to_vec(),
    };
    let metadata = ModelMetadataResponse {
        name: "m".to_owned(),
        versions: vec!["1".to_owned()],
        platform: "p".to_owned(),
        inputs: vec![tensor("i", "FP32", &[-1, 3])],
        outputs: vec![tensor("o", "INT32", &[1])],
    };
    let expected = bytes(
        "0a016d1201311a017022160a01691204465033321a0bffffffffffffffffff01032a0d0a016f1205494e5433321a0101",
    );
    assert_eq!(metadata.encode_to_vec(), expected);
    let server = ServerMetadataResponse {
        name: "n".to_owned(),
        version: "v".to_owned(),
        extensions: vec!["e".to_owned()],
    };
    assert_eq!(server.encode_to_vec(), bytes("0a016e1201761a0165"));
    assert_eq!(ServerLiveResponse { live: true }.encode_to_vec(), [8, 1]);
    assert_eq!(ReadyResponse { ready: true }.encode_to_vec(), [8, 1]);
    let model = ModelRequest::decode(bytes("0a016e120176")).unwrap();
    assert_eq!((&*model.name, &*model.version), ("n", "v"));
    let load = RepositoryModelLoadRequest::decode(bytes("12016d")).unwrap();
    assert_eq!(load.model_name, "m");
}

#[test]
fn grpc_wrong_requests_are_told_what_is_wrong() {
    let server = start(config(), Duration::ZERO);
    let client = client(&server);
    let none = InputContents::default;
    let mut renamed = images(1);
    renamed.model_name = "other\u{1b}\u{fc}".to_owned();
    let mut version = images(1);
    version.model_version = "2".to_owned();
    let mut output = images(1);
    let name = "x".to_owned();
    output.outputs = vec![InferRequestedOutputTensor { name }];
    let mut both = raw(images(1), b"\x02\0\0\0#\x01");
    both.inputs[0].contents = Some(files(&[b"#\x01"]));
    let mut neither = images(1);
    neither.inputs[0].contents = None;
    let mut raw_twice = raw(images(1), b"\x02\0\0\0#\x01");
    raw_twice.raw_input_contents.push(Bytes::new());
    let mut inputs = images(1);
    inputs.inputs = vec![inputs.inputs[0].clone(); 2];
    let large = InputContents {
        uint_contents: Bytes::from_static(b"\x01\xac\x02"),
        ..none()
    };
    let endless = InputContents {
        uint_contents: Bytes::from_static(&[0xff; 3]),
        ..none()
    };
    for (request, code, text) in [
        (
            renamed,
            Code::NotFound,
            "there is no model \"other\\u{1b}\u{fc}\"; there is \"sleeper\"",
        ),
        (version, Code::NotFound, "there is no version"),
        (
            output,
            Code::InvalidArgument,
            "there is no output \"x\"; there are logits, probabilities, resolution",
        ),
        (
            both,
            Code::InvalidArgument,
            "must be in either `contents` or raw_input_contents",
        ),
        (
            neither,
            Code::InvalidArgument,
            "must be in either `contents` or raw_input_contents",
        ),
        (
            raw_twice,
            Code::InvalidArgument,
            "2 raw_input_contents, and one input",
        ),
        (inputs, Code::InvalidArgument, "this one has 2"),
        (
            with(images(1), "size", Parameter::Int64(48)),
            Code::InvalidArgument,
            "the size 48 is not loaded; there are 64, 32",
        ),
        (
            with(images(1), "size", Parameter::Int64(-1)),
            Code::InvalidArgument,
            "a number of pixels",
        ),
        (
            with(images(1), "size", Parameter::Bool(true)),
            Code::InvalidArgument,
            "a number of pixels",
        ),
        (
            with(images(1), "deadline_ms", Parameter::Double(f64::NAN)),
            Code::InvalidArgument,
            "deadline_ms must be above 0",
        ),
        (
            with(images(1), "deadline_ms", Parameter::Text("50".to_owned())),
            Code::InvalidArgument,
            "deadline_ms must be a number",
        ),
        (
            request("x", "FP32", &[1], none()),
            Code::InvalidArgument,
            "there is no such input; there are images, pixels, normalized",
        ),
        (
            request("pixels", "FP32", &[1], none()),
            Code::InvalidArgument,
            "the datatype is UINT8, not \"FP32\"",
        ),
        (
            request("pixels", "UINT8", &[1, 3, 32, 32], none()),
            Code::InvalidArgument,
            "the shape is [n, size, size, 3], not [1, 3, 32, 32]",
        ),
        (
            request("pixels", "UINT8", &[-1, 2, 2, 3], none()),
            Code::InvalidArgument,
            "must not have negative numbers",
        ),
        (
            request("pixels", "UINT8", &[1, 2, 2, 3], none()),
            Code::InvalidArgument,
            "does not fit 0 values",
        ),
        (
            request("pixels", "UINT8", &[i64::MAX, 2, 2, 3], none()),
            Code::InvalidArgument,
            "1 to 8 images",
        ),
        (
            request("pixels", "UINT8", &[1; 17], none()),
            Code::InvalidArgument,
            "at most 16 dimensions",
        ),
        (
            request("pixels", "UINT8", &[1; 100_000], none()),
            Code::InvalidArgument,
            "at most 16 dimensions",
        ),
        (
            request("pixels", "UINT8", &[1, 1, 1, 3], large),
            Code::InvalidArgument,
            "300 is not a whole number",
        ),
        (
            request("pixels", "UINT8", &[1, 1, 1, 3], endless),
            Code::InvalidArgument,
            "the message ends early",
        ),
        (
            raw(
                request("normalized", "FP32", &[1, 3, 1, 1], none()),
                &[0; 13],
            ),
            Code::InvalidArgument,
            "13 bytes are no whole number of float32",
        ),
        (
            raw(images(1), b"\x09\0\0\0#\x01"),
            Code::InvalidArgument,
            "longer than the tensor",
        ),
        (images(0), Code::InvalidArgument, "1 to 8 images"),
        (images(9), Code::InvalidArgument, "1 to 8 images"),
        // Fields that would take a hundred times the memory of the message.
        (
            request("images", "BYTES", &[1], files(&vec![b"" as &[u8]; 100_000])),
            Code::InvalidArgument,
            "too many fields",
        ),
        (
            request("images", "BYTES", &[1], files(&[b"<html>"])),
            Code::InvalidArgument,
            "looks like HTML",
        ),
    ] {
        let shown = format!("{:?}", request.inputs[0].name);
        let error = infer(&client, request).unwrap_err();
        assert_eq!(error.code(), code, "{shown}: {error}");
        assert!(error.message().contains(text), "{shown}: {error}");
        assert!(error.message().len() < 1000, "{shown}: {error}");
    }
    let bad = "rsflow_requests_total{outcome=\"bad\",size=\"\"} 28";
    let metrics = get(server.address, "/metrics").text();
    assert!(metrics.lines().any(|line| line == bad), "{metrics}");
    server.stop();
}

#[test]
fn grpc_takes_no_more_than_it_says_and_nothing_else() {
    let server = start(config(), Duration::ZERO);
    let client = client(&server);
    // A little above the 64 MiB that HTTP takes.
    let large = raw(images(1), &vec![0; (64 << 20) + 100]);
    let error = infer(&client, large).unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
    let post = |kind: &str, body: &'static [u8]| {
        let to = format!("http://test/{INFER}");
        let request = hyper::Request::post(to).header("content-type", kind);
        let body = Body::new(http_body_util::Full::new(Bytes::from_static(body)));
        request.header("te", "trailers").body(body).unwrap()
    };
    let grpc = "application/grpc+proto";
    for (body, code) in [
        (b"" as &[u8], "3"),
        (b"\0\0\0\0", "3"),
        (b"\0\0\0\0\x01", "3"),
        (b"\0\xff\xff\xff\xff\x01", "3"),
        // Two messages.
        (b"\0\0\0\0\0\0\0\0\0\0", "3"),
        (b"\x01\0\0\0\0", "12"),
        // No protobuf; a group.
        (b"\0\0\0\0\x01\xff", "3"),
        (b"\0\0\0\0\x02\x0b\x0c", "3"),
        // A text that is not UTF-8.
        (b"\0\0\0\0\x03\x0a\x01\xff", "3"),
    ] {
        let answer = client.raw(post(grpc, body));
        assert_eq!(
            (answer.status(), &answer.headers()["grpc-status"]),
            (hyper::StatusCode::OK, &code.parse().unwrap()),
            "{body:?}"
        );
    }
    for (kind, status) in [
        ("application/grpc", 200),
        ("Application/grpc; charset=utf-8", 200),
        ("application/grpc+proto;a=b", 200),
        ("application/grpc+json", 415),
        ("application/grpc-web", 415),
        ("application/grpc-web+proto", 415),
        ("application/grpcfoo", 415),
        ("application/json", 415),
        ("application/json;application/grpc", 415),
    ] {
        let answer = client.raw(post(kind, b"\0\0\0\0\0"));
        assert_eq!(answer.status(), status, "{kind}");
        let has_code = answer.headers().contains_key("grpc-status");
        assert_eq!(has_code, status == 200, "{kind}");
    }
    let mut timed = post(grpc, b"\0\0\0\0\0");
    timed
        .headers_mut()
        .insert("grpc-timeout", "5x".parse().unwrap());
    assert_eq!(client.raw(timed).headers()["grpc-status"], "3");
    infer(&client, images(1)).unwrap();
    server.stop();
}
