internal import Glibc

/// The one thread that takes signals; every other one has them blocked.
enum SignalThread {
    /// What a signal asks for.
    enum Request: Sendable {
        /// TERM or INT; also HUP in the foreground on a terminal.
        case stop
        /// HUP.
        case rescan
        /// USR1.
        case status
    }

    private static let numbers = [SIGTERM, SIGINT, SIGHUP, SIGUSR1]

    private static var set: sigset_t {
        var set = sigset_t()
        sigemptyset(&set)
        for number in numbers { sigaddset(&set, number) }
        return set
    }

    /// Blocks the signals in this thread and in all that it starts later. To be called before any other thread exists.
    static func block() {
        var set = set
        pthread_sigmask(SIG_BLOCK, &set, nil)
    }

    /// Starts the thread; `body` gets one request at a time.
    static func start(hangupStops: Bool, _ body: @escaping @Sendable (Request) -> Void) throws(Failure) {
        let box = Unmanaged.passRetained(Body(hangupStops: hangupStops, run: body))
        var thread = pthread_t()
        let code = pthread_create(&thread, nil, signalThreadMain, box.toOpaque())
        guard code == 0 else {
            box.release()
            throw Failure(.system, "cannot start a thread: \(HostPath.reason(code))")
        }
        pthread_detach(thread)
    }

    fileprivate final class Body: Sendable {
        private let hangupStops: Bool
        private let run: @Sendable (Request) -> Void

        init(hangupStops: Bool, run: @escaping @Sendable (Request) -> Void) {
            self.hangupStops = hangupStops
            self.run = run
        }

        func loop() {
            var set = SignalThread.set
            while true {
                var number: Int32 = 0
                guard sigwait(&set, &number) == 0 else { continue }
                switch number {
                case SIGHUP: run(hangupStops ? .stop : .rescan)
                case SIGUSR1: run(.status)
                default: run(.stop)
                }
            }
        }
    }
}

/// A function of its own and no closure: it runs on a thread that Swift knows nothing about.
private func signalThreadMain(_ context: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    guard let context else { return nil }
    Unmanaged<SignalThread.Body>.fromOpaque(context).takeRetainedValue().loop()
    return nil
}
