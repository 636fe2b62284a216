internal import Bytes
package import Storage

/// Placeholder until the driver lands.
package enum VHD: ImageFormat {
    package static let name = "vhd"
    package static func recognises(_ storage: any Storage) throws(ImageError) -> Bool { false }
    package static func virtualSize(of storage: any Storage, options: FormatOptions) throws(ImageError) -> UInt64 {
        throw ImageError(.unsupported, "not yet")
    }
    package static func open(_ request: OpenRequest) throws(ImageError) -> any FormatDriver {
        throw ImageError(.unsupported, "not yet")
    }
}
