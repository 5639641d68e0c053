# bare-gpu.sh - runs a build of this project on an NVIDIA machine that has a driver but no distribution packages: the
# Vulkan and OpenCL loaders, the libraries of the kascade command and those that NVIDIA's Vulkan driver is linked with
# or, like libEGL, opens by itself travel there as .deb files.
#   on a Debian machine of the same release as the build:  bash scripts/bare-gpu.sh pack DIR
#   on the GPU machine, in the shell that will run it:      source scripts/bare-gpu.sh unpack DIR
# Unpacking needs root, touches /opt/extra and /etc/OpenCL/vendors/nvidia.icd, and sets LD_LIBRARY_PATH and, where the
# driver keeps its Vulkan manifest outside the default places, VK_DRIVER_FILES.

bare_gpu_packages="libvulkan1 ocl-icd-libopencl1 libcjson1 libopenblas0-pthread libgfortran5 libquadmath0 libgomp1
    libegl1 libglvnd0 libx11-6 libxext6 libxcb1 libxau6 libxdmcp6 libbsd0 libmd0"

# The script may be sourced, so every failure is a return.
bare_gpu_fail() {
    echo "bare-gpu.sh: $*" >&2
    return 1
}

bare_gpu_pack() {
    command -v apt-get >/dev/null || { bare_gpu_fail "packing needs apt-get"; return; }
    mkdir -p "$1" || { bare_gpu_fail "cannot make the folder '$1'"; return; }
    # shellcheck disable=SC2086
    (cd "$1" && apt-get -q download $bare_gpu_packages) ||
        bare_gpu_fail "could not download $bare_gpu_packages: run apt-get update and check the network"
}

bare_gpu_unpack() {
    local root=/opt/extra libraries=/opt/extra/usr/lib/x86_64-linux-gnu driver=/usr/local/nvidia archive paths
    for archive in "$1"/*.deb; do
        [ -e "$archive" ] || { bare_gpu_fail "no .deb file in '$1': make them by 'bare-gpu.sh pack'"; return; }
        mkdir -p "$root" && dpkg -x "$archive" "$root" || { bare_gpu_fail "cannot unpack $archive into $root"; return; }
    done
    paths=$libraries:$libraries/openblas-pthread
    [ ! -d $driver/lib64 ] || paths=$paths:$driver/lib64
    case ":${LD_LIBRARY_PATH-}:" in
    *":$paths:"*) ;;
    *) export LD_LIBRARY_PATH="$paths${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" ;;
    esac
    if [ -e $driver/share/vulkan/icd.d/nvidia_icd.json ]; then
        export VK_DRIVER_FILES=$driver/share/vulkan/icd.d/nvidia_icd.json
    fi
    mkdir -p /etc/OpenCL/vendors && echo libnvidia-opencl.so.1 >/etc/OpenCL/vendors/nvidia.icd ||
        bare_gpu_fail "cannot write /etc/OpenCL/vendors/nvidia.icd: OpenCL will show no device"
}

case "${1-}:${2:+folder}" in
pack:folder) bare_gpu_pack "$2" ;;
unpack:folder) bare_gpu_unpack "$2" ;;
*) bare_gpu_fail "usage: bash scripts/bare-gpu.sh pack DIR, then there: source scripts/bare-gpu.sh unpack DIR" ;;
esac
