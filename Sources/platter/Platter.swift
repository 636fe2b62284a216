internal import Bytes
@main struct Platter { static func main() {} }
