"""An RTSP server by GStreamer, run by the system's Python (Debian: gir1.2-gst-rtsp-server-1.0, python3-gi and plugins).

/usr/bin/python3 tests/rtsp_server.py PORT      serves rtsp://127.0.0.1:PORT/cam until it is killed
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

Gst.init(None)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(sys.argv[1])
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(
    "( videotestsrc is-live=true pattern=ball ! video/x-raw,width=128,height=96,framerate=25/1 ! videoconvert ! "
    "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=10 ! rtph264pay name=pay0 pt=96 )"
)
server.get_mount_points().add_factory("/cam", factory)
server.attach(None)
print("serving", flush=True)
GLib.MainLoop().run()
