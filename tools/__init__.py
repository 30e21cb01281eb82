"""What builds and installs chadthrottle; nothing here is part of the installed package."""
