import Glibc
public import RaftCore
import Synchronization

/// Addresses on 127.0.0.1 that nobody listens on.
///
/// They lie below the range from which the kernel takes the ports of outgoing connections, so that a node which is down
/// for a while finds its port free when it comes back; each is given out once in a process.
public enum LoopbackPorts {
    private static let range = 15_000..<32_000
    /// Where to look next; begins somewhere else in each process.
    private static let next = Mutex(range.lowerBound + Int(getpid()) &* 37 % range.count)

    /// `count` different addresses.
    public static func take(_ count: Int) -> [NodeAddress] {
        precondition(count >= 0 && count < range.count / 2, "\(count) ports")
        return (0..<count).map { _ in takeOne() }
    }

    private static func takeOne() -> NodeAddress {
        while true {
            let port = next.withLock { next in
                defer { next = next + 1 < range.upperBound ? next + 1 : range.lowerBound }
                return next
            }
            let address = NodeAddress(ip: 127 << 24 | 1, port: UInt16(port))
            if isFree(address) { return address }
        }
    }

    private static func isFree(_ address: NodeAddress) -> Bool {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        precondition(descriptor >= 0, "no socket (errno \(errno))")
        defer { close(descriptor) }
        var name = sockaddr_in()
        name.sin_family = sa_family_t(AF_INET)
        name.sin_port = address.port.bigEndian
        name.sin_addr.s_addr = address.ip.bigEndian
        return withUnsafePointer(to: &name) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
            }
        }
    }
}
