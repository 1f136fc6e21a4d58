"""Where a model reads many images: in this process, so far (:mod:`ssl_diffusion.inference.engines.local`)."""
