"""The wheel holds the library, so it is one of this platform, for every Python 3; see `wheel` beside this file."""

from setuptools import Distribution, setup


class Platform(Distribution):
    def has_ext_modules(self):
        return True


def commands():
    try:
        from setuptools.command.bdist_wheel import bdist_wheel
    except ImportError:  # setuptools before 70.1
        from wheel.bdist_wheel import bdist_wheel

    class Wheel(bdist_wheel):
        def get_tag(self):
            return ("py3", "none", super().get_tag()[2])

    return {"bdist_wheel": Wheel}


setup(distclass=Platform, cmdclass=commands())
