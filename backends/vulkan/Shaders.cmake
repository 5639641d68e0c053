# Shaders.cmake - finds a GLSL compiler, learns what it can compile, and turns kernels into embedded SPIR-V.

# Sets KASCADE_GLSL_COMPILER: the caller's choice, the compiler that scripts/shader-compiler.sh provides, glslc, or
# glslang by either of its names.
function(kascade_find_glsl_compiler)
  find_program(KASCADE_GLSL_COMPILER NAMES glslc glslang glslangValidator
               HINTS ${PROJECT_SOURCE_DIR}/out/shader-compiler/bin
               DOC "GLSL compiler for the Vulkan backend: glslc, glslang or glslangValidator")
endfunction()

# Sets `variable` to the command line that compiles `source` to `output`, defines and a dependency file included.
function(kascade_glsl_command variable source output)
  get_filename_component(compiler ${KASCADE_GLSL_COMPILER} NAME)
  set(arguments -I${PROJECT_SOURCE_DIR} -I${CMAKE_CURRENT_SOURCE_DIR}/kernels ${ARGN})
  if(compiler MATCHES "^glslc")
    # vulkan1.3 would let the compiler use LocalSizeId, which needs a feature of its own.
    set(command --target-env=vulkan1.2 -O -fshader-stage=compute -MD -MF ${output}.d)
  else()
    set(command --quiet -V --target-env vulkan1.2 -S comp --depfile ${output}.d)
  endif()
  set(${variable} ${KASCADE_GLSL_COMPILER} ${command} ${arguments} -o ${output} ${source} PARENT_SCOPE)
endfunction()

# Sets `variable` to whether the compiler takes a file with `extension` enabled.
function(kascade_probe_glsl variable extension)
  if(DEFINED ${variable})
    return()
  endif()
  set(probe ${CMAKE_CURRENT_BINARY_DIR}/probe.comp)
  file(WRITE ${probe} "#version 450\n#extension ${extension} : require\nvoid main() {}\n")
  kascade_glsl_command(command ${probe} ${probe}.spv)
  execute_process(COMMAND ${command} RESULT_VARIABLE result OUTPUT_QUIET ERROR_QUIET)
  if(result EQUAL 0)
    set(${variable} TRUE CACHE INTERNAL "")
  else()
    set(${variable} FALSE CACHE INTERNAL "")
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

# kascade_shader(kernel [suffix [define...]]): compiles kernels/<kernel>.comp and embeds it as
# kas_spirv_<kernel>[_<suffix>].
function(kascade_shader kernel)
  set(symbol kas_spirv_${kernel})
  set(defines ${kascade_shader_defines})
  if(ARGC GREATER 1)
    set(symbol ${symbol}_${ARGV1})
    list(SUBLIST ARGN 1 -1 more)
    list(APPEND defines ${more})
  endif()
  set(source ${CMAKE_CURRENT_SOURCE_DIR}/kernels/${kernel}.comp)
  set(output ${CMAKE_CURRENT_BINARY_DIR}/${symbol}.spv)
  kascade_glsl_command(command ${source} ${output} ${defines})
  add_custom_command(OUTPUT ${output} COMMAND ${command} DEPENDS ${source} DEPFILE ${output}.d
                     COMMENT "Compiling ${symbol}" VERBATIM)
  kascade_embed(kascade_objects ${symbol} ${output})
endfunction()
