//! Tables for `units`.

use super::*;

#[test]
fn sizes_print_as_go_units() {
    for (bytes, decimal, binary) in [
        (0, "0B", "0B"),
        (999, "999B", "999B"),
        (1_000, "1kB", "1000B"),
        (1_024, "1.024kB", "1KiB"),
        (1_234_567, "1.235MB", "1.177MiB"),
        (133_000_000, "133MB", "126.8MiB"),
        (999_960, "1000kB", "976.5KiB"),
        (25_276_510_208, "25.28GB", "23.54GiB"),
        (u64::MAX, "18.45EB", "16EiB"),
    ] {
        assert_eq!(human_size(bytes), decimal, "{bytes}");
        assert_eq!(bytes_size(bytes), binary, "{bytes}");
    }
    assert_eq!(human_size_3(133_456_789), "133MB");
    assert_eq!(human_size_3(4_270_000), "4.27MB");
    assert_eq!(human_size_3(999_999), "1e+03kB");
}

#[test]
fn memory_is_read_as_docker_reads_it() {
    for (text, bytes) in [
        ("0", 0),
        ("4096", 4_096),
        ("32b", 32),
        ("32k", 32 << 10),
        ("32KB", 32 << 10),
        ("32kib", 32 << 10),
        ("1.5g", 3 << 29),
        ("512 MB", 512 << 20),
        ("900GB", 900 << 30),
        ("1t", 1 << 40),
    ] {
        assert_eq!(parse_ram(text), Ok(bytes), "{text}");
    }
    for (text, why) in [
        ("", "invalid size: ''"),
        ("hello", "invalid size: 'hello'"),
        ("-5k", "invalid size: '-5k'"),
        ("32bb", "invalid suffix: 'bb'"),
        ("32kc", "invalid suffix: 'kc'"),
        ("32kibs", "invalid suffix: 'kibs'"),
        ("32x", "invalid suffix: 'x'"),
        ("1.2.3k", "strconv.ParseFloat: parsing \"1.2.3\": invalid syntax"),
        ("99999999999g", "size out of range: '99999999999g'"),
    ] {
        assert_eq!(parse_ram(text).unwrap_err().to_string(), why, "{text}");
    }
}

#[test]
fn cpus_are_exact() {
    for (text, nanos, shown) in [
        ("0", 0, "0"),
        ("0.5", 500_000_000, "0.5"),
        ("2", 2_000_000_000, "2"),
        (".25", 250_000_000, "0.25"),
        ("1e-1", 100_000_000, "0.1"),
        ("0.00001", 10_000, "0.00001"),
        ("1/4", 250_000_000, "0.25"),
        ("0.000000001", 1, "0.000000001"),
    ] {
        assert_eq!(parse_cpus(text), Ok(nanos), "{text}");
        assert_eq!(format_cpus(nanos), shown, "{text}");
    }
    for text in ["", "abc", "1..2", "1/0", "1/", "-", "1e99999999999", "1e400", "٣"] {
        let why = format!("failed to parse {text} as a rational number");
        assert_eq!(parse_cpus(text).unwrap_err().to_string(), why, "{text}");
    }
    assert_eq!(parse_cpus("0.0000000001"), Err(BadUnit::TooPrecise));
    assert_eq!(parse_cpus("1/3"), Err(BadUnit::TooPrecise));
}

#[test]
fn numbers_fail_in_gos_words() {
    assert_eq!(parse_uint("3"), Ok(3));
    assert_eq!(parse_uint("0x10"), Ok(16));
    assert_eq!(parse_int("-7"), Ok(-7));
    for text in ["-1", "abc", "", "+1", "1.5"] {
        let why = format!("strconv.ParseUint: parsing \"{text}\": invalid syntax");
        assert_eq!(parse_uint(text).unwrap_err().to_string(), why);
    }
    assert_eq!(
        parse_uint("99999999999999999999").unwrap_err().to_string(),
        "strconv.ParseUint: parsing \"99999999999999999999\": value out of range"
    );
    assert_eq!(
        parse_int("--7").unwrap_err().to_string(),
        "strconv.ParseInt: parsing \"--7\": invalid syntax"
    );
}
