# Shaders.cmake - finds GLSL compilers, learns what they can compile, and turns kernels into embedded SPIR-V.

# What shader-compiler.sh provides.
set(kascade_provided_compilers ${PROJECT_SOURCE_DIR}/out/shader-compiler/bin)

# Sets KASCADE_GLSL_COMPILER: the caller's choice, or glslc, or glslang by either of its names.
function(kascade_find_glsl_compiler)
  find_program(KASCADE_GLSL_COMPILER NAMES glslc glslang glslangValidator HINTS ${kascade_provided_compilers}
               DOC "GLSL compiler for the Vulkan backend: glslc, glslang or glslangValidator")
endfunction()

# Sets `variable` to a compiler that knows `extension` for `target`, the one of all other kernels where it does; to a
# false value when there is none. Looked for anew each time, so that a compiler that came later is found.
function(kascade_find_compiler_of variable extension target)
  find_program(provided NAMES glslang PATHS ${kascade_provided_compilers} NO_DEFAULT_PATH NO_CACHE)
  foreach(compiler "${KASCADE_GLSL_COMPILER}" "${provided}")
    if(compiler)
      kascade_probe_glsl(known ${compiler} ${extension} ${target})
      if(known)
        set(${variable} ${compiler} PARENT_SCOPE)
        return()
      endif()
    endif()
  endforeach()
  set(${variable} FALSE PARENT_SCOPE)
endfunction()

# Sets `variable` to the environment that a kernel is compiled for. vulkan1.3 lets the compiler use LocalSizeId, which
# needs a feature of its own; only what must be SPIR-V 1.6 goes there, and has a fixed group size instead.
function(kascade_glsl_target variable source)
  if(source MATCHES "_matrix2[.]comp$")
    set(${variable} vulkan1.3 PARENT_SCOPE)
  else()
    set(${variable} vulkan1.2 PARENT_SCOPE)
  endif()
endfunction()

# Sets `variable` to the command line by which `compiler` makes `output` of `source`, defines and a dependency file
# included; KASCADE_GLSL_TARGET is the environment, by default that of the source.
function(kascade_glsl_command variable compiler source output)
  get_filename_component(name ${compiler} NAME)
  set(target ${KASCADE_GLSL_TARGET})
  if(NOT target)
    kascade_glsl_target(target ${source})
  endif()
  set(arguments -I${PROJECT_SOURCE_DIR} -I${CMAKE_CURRENT_SOURCE_DIR}/kernels ${ARGN})
  if(name MATCHES "^glslc")
    # Drivers optimise by themselves. The optimiser of glslc 2023.8 (Ubuntu 24.04) crashes on cooperative matrices, and
    # after that of 2023.2 NVIDIA's driver gives sparse_split_lanes 222 registers instead of 163.
    set(optimize -O)
    if(source MATCHES "(_matrix2?|split_lanes|logits_lanes)[.]comp$")
      set(optimize -O0)
    endif()
    set(command --target-env=${target} ${optimize} -fshader-stage=compute -MD -MF ${output}.d)
  else()
    set(command --quiet -V --target-env ${target} -S comp --depfile ${output}.d)
  endif()
  set(${variable} ${compiler} ${command} ${arguments} -o ${output} ${source} PARENT_SCOPE)
endfunction()

# Sets `variable` to whether `compiler` takes a file with `extension` enabled for `target`.
function(kascade_probe_glsl variable compiler extension target)
  set(KASCADE_GLSL_TARGET ${target})
  set(probe ${CMAKE_CURRENT_BINARY_DIR}/probe.comp)
  file(WRITE ${probe} "#version 450\n#extension ${extension} : require\nvoid main() {}\n")
  kascade_glsl_command(command ${compiler} ${probe} ${probe}.spv)
  execute_process(COMMAND ${command} RESULT_VARIABLE result OUTPUT_QUIET ERROR_QUIET)
  if(result EQUAL 0)
    set(${variable} TRUE PARENT_SCOPE)
  else()
    set(${variable} FALSE PARENT_SCOPE)
  endif()
endfunction()

# The status bits, from the one place that defines them.
file(STRINGS ${PROJECT_SOURCE_DIR}/include/kascade/kascade.h check_lines REGEX "#define KAS_CHECK_")
set(kascade_shader_defines "")
foreach(line ${check_lines})
  if(line MATCHES "#define (KAS_CHECK_[A-Z]+) \\((1u << [0-9]+)\\)")
    list(APPEND kascade_shader_defines "-D${CMAKE_MATCH_1}=(${CMAKE_MATCH_2})")
  endif()
endforeach()

# kascade_shader(compiler kernel [suffix [define...]]): compiles kernels/<kernel>.comp and embeds it as
# kas_spirv_<kernel>[_<suffix>].
function(kascade_shader compiler kernel)
  set(symbol kas_spirv_${kernel})
  set(defines ${kascade_shader_defines})
  if(ARGC GREATER 2)
    set(symbol ${symbol}_${ARGV2})
    list(SUBLIST ARGN 1 -1 more)
    list(APPEND defines ${more})
  endif()
  set(source ${CMAKE_CURRENT_SOURCE_DIR}/kernels/${kernel}.comp)
  set(output ${CMAKE_CURRENT_BINARY_DIR}/${symbol}.spv)
  kascade_glsl_command(command ${compiler} ${source} ${output} ${defines})
  add_custom_command(OUTPUT ${output} COMMAND ${command} DEPENDS ${source} DEPFILE ${output}.d
                     COMMENT "Compiling ${symbol}" VERBATIM)
  kascade_embed(kascade_objects ${symbol} ${output})
endfunction()
