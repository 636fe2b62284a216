internal import Bytes
internal import CCrypto
package import Storage

/// SHA-256 by the system's libcrypto: debug builds hash disks of gigabytes in the tests.
package struct SHA256: ~Copyable {
    private let context: OpaquePointer
    private static let zeros = [UInt8](repeating: 0, count: 1 << 20)

    /// Starts a hash of no bytes; throws where libcrypto has no SHA-256 to give.
    package init() throws {
        guard let context = EVP_MD_CTX_new(), EVP_DigestInit_ex(context, EVP_sha256(), nil) == 1 else {
            throw HostFailure("libcrypto has no SHA-256 to give", errno: 0)
        }
        self.context = context
    }

    deinit { EVP_MD_CTX_free(context) }

    /// Adds bytes.
    package func add(_ bytes: UnsafeRawBufferPointer) {
        precondition(EVP_DigestUpdate(context, bytes.baseAddress, bytes.count) == 1)
    }

    /// Adds `count` zero bytes, from a buffer that stays in the processor's cache.
    package func addZeros(_ count: UInt64) {
        Self.zeros.withUnsafeBytes { zeros in
            var left = count
            while left > 0 {
                let step = Int(min(left, UInt64(zeros.count)))
                add(UnsafeRawBufferPointer(rebasing: zeros[..<step]))
                left -= UInt64(step)
            }
        }
    }

    /// The hash of everything added, in lower-case hexadecimal digits.
    package consuming func finish() -> String {
        var digest = [UInt8](repeating: 0, count: 32)
        precondition(EVP_DigestFinal_ex(context, &digest, nil) == 1)
        return digest.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }

    /// The hash of some bytes.
    package static func of(_ bytes: [UInt8]) throws -> String {
        let hash = try SHA256()
        bytes.withUnsafeBytes { hash.add($0) }
        return hash.finish()
    }

    /// The hash of a file's content, holes included.
    package static func of(_ storage: any Storage) throws -> String {
        let hash = try SHA256()
        var position: UInt64 = 0
        var buffer = [UInt8](repeating: 0, count: 1 << 20)
        while position < storage.size {
            let data = try storage.nextData(from: HostOffset(position))?.rawValue ?? storage.size
            if data > position {
                hash.addZeros(data - position)
                position = data
                continue
            }
            let end = try storage.nextHole(from: HostOffset(position)).rawValue
            let count = Int(min(UInt64(buffer.count), max(end, position + 1) - position))
            try buffer.withUnsafeMutableBytes {
                let part = UnsafeMutableRawBufferPointer(rebasing: $0[..<count])
                try storage.readAll(at: HostOffset(position), into: part)
                hash.add(UnsafeRawBufferPointer(part))
            }
            position += UInt64(count)
        }
        return hash.finish()
    }

    /// The hash of the file at `path`.
    package static func ofFile(_ path: String) throws -> String {
        let storage = try FileStorage(path: path)
        defer { storage.close() }
        return try of(storage)
    }
}
