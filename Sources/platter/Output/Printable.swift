internal import Bytes

/// Text of foreign origin (file names, fields of images) on its way to a terminal or a log.
enum Printable {
    /// `text` on one line: control characters become `\xNN`, so that a name cannot break a line or drive a terminal.
    static func line(_ text: String) -> String {
        var result = ""
        for scalar in text.unicodeScalars {
            if scalar.value < 0x20 || (0x7F...0x9F).contains(scalar.value) || scalar.value == 0x2028 {
                result += "\\x" + hex(scalar.value)
            } else {
                result.unicodeScalars.append(scalar)
            }
        }
        return result
    }

    /// At least two hexadecimal digits.
    static func hex(_ value: UInt32) -> String {
        let digits = String(value, radix: 16)
        return digits.count < 2 ? "0" + digits : digits
    }

    /// Bytes for a person who may want to calculate with them: "4194304 bytes (4 MiB)".
    static func exactSize(_ bytes: UInt64) -> String {
        bytes < 1024 ? size(bytes) : "\(bytes) bytes (\(size(bytes)))"
    }

    /// Bytes for a person: "64 KiB", "1.5 GiB", exact below 1 KiB.
    static func size(_ bytes: UInt64) -> String {
        let units = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
        var unit = 0
        while unit < units.count - 1, bytes >> (10 * UInt64(unit + 1)) > 0 { unit += 1 }
        guard unit > 0 else { return bytes.counted("byte") }
        let shift = 10 * UInt64(unit)
        let whole = bytes >> shift
        let tenths = (bytes >> (shift - 10) & 1023) * 10 / 1024
        return tenths == 0 ? "\(whole) \(units[unit])" : "\(whole).\(tenths) \(units[unit])"
    }
}
