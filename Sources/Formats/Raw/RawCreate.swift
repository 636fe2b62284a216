internal import Bytes
package import Storage

extension Raw {
    /// How much of the file exists on the host from the start.
    private enum Preallocation: String, CaseIterable {
        case off, falloc, full
    }

    package static var createOptions: [CreateOption] {
        [CreateOption("preallocation", "off|falloc|full", "how much space the new file takes at once; off by default")]
    }

    package static func create(_ request: CreateRequest) throws(ImageError) {
        guard request.parent == nil else {
            throw ImageError(.unsupported, "a raw disk cannot have a parent; make a qcow2, VHD or VHDX image instead")
        }
        guard request.virtualSize <= UInt64(Int64.max) else {
            throw ImageError(.outOfRange, "no file can be that large", detail: request.virtualSize.counted("byte"))
        }
        let values = OptionValues(request.options)
        let storage = request.storage
        switch try values.choice("preallocation", Preallocation.self) ?? .off {
        case .off: try storage.resize(to: request.virtualSize)
        case .falloc: try HostSpace.allocate(storage, at: 0, count: request.virtualSize)
        case .full: try HostSpace.writeZeros(storage, at: 0, count: request.virtualSize)
        }
        try storage.flush()
    }
}
