internal import Glibc
internal import RaftCore
internal import Synchronization
internal import Transport

/// The thread of a ``Client``: an event loop with a router on it.
///
/// Everything but ``run(_:)`` and ``close()`` belongs to that thread, which begins with ``start()``.
final class ClientLane: @unchecked Sendable {
    let router: Router
    let transport: RpcTransport
    let clock: any NodeClock
    private let loop: EventLoop
    /// Nil before the start and after the end.
    private let thread = Mutex<pthread_t?>(nil)

    init(seeds: [NodeAddress], settings: Router.Settings) throws(TransportError) {
        let loop = try EventLoop()
        let transport = RpcTransport(network: loop.makeNetwork(), clock: loop.clock)
        // the one place where a client takes its chance from the machine
        let seed = UInt64.random(in: .min ... .max)
        let router = Router(seeds: seeds, transport: transport, clock: loop.clock, settings: settings, seed: seed)
        router.requestTurn = { [unowned loop] in loop.requestTurn() }
        loop.setTurn { now in
            // the router first: what it sends gives the transport deadlines
            let dues = [router.turn(now: now), transport.turn(now: now)]
            return dues.compactMap { $0 }.min()
        }
        self.loop = loop
        self.transport = transport
        self.router = router
        clock = loop.clock
    }

    func start() throws(TransportError) {
        var started = pthread_t()
        let context = Unmanaged.passRetained(self)
        let failure = pthread_create(
            &started, nil,
            { context in
                guard let context else { return nil }
                Unmanaged<ClientLane>.fromOpaque(context).takeRetainedValue().loop.run()
                return nil
            }, context.toOpaque())
        guard failure == 0 else {
            context.release()
            throw .system(call: "pthread_create", errno: failure, message: String(cString: strerror(failure)))
        }
        thread.withLock { [started] thread in thread = started }
    }

    /// Runs `work` on the lane; false if it is closed. Any thread.
    func run(_ work: @escaping @Sendable (ClientLane) -> Void) -> Bool {
        // under the lock, so that nothing is posted behind the work that ends the loop
        thread.withLock { thread in
            guard thread != nil else { return false }
            loop.post { work(self) }
            return true
        }
    }

    /// Ends every call and the thread; returns when it has ended. Any thread but the lane's.
    func close() {
        let ending = thread.withLock { thread -> pthread_t? in
            defer { thread = nil }
            guard thread != nil else { return nil }
            loop.post {
                self.router.close()
                self.transport.close()
                self.loop.stop()
            }
            return thread
        }
        if let ending { pthread_join(ending, nil) }
    }
}
